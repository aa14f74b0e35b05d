# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Starts the roles of a distributed MXNet run, and ends all of them as soon as one fails.

    python launch.py --workers 2 --servers 1 train_mnist.py --quick

All roles run the same script: in a scheduler and in a server ``import mxnet`` does its work and never returns. Which
role a process has it reads from its environment, the variables DMLC_*; see README.md for several machines. What MXNet
has of this, its tools/launch.py, needs a package that its wheel lacks, and does not see that a role is dead: the others
would wait for it without end.
"""
import argparse
import os
import signal
import socket
import subprocess
import sys
import time

#: Seconds that scheduler and servers may take to end after the last worker has.
END = 30


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--workers', type=int, default=2, metavar='N', help='on each machine; default %(default)s')
    add('--servers', type=int, default=1, metavar='N', help='on each machine; default %(default)s')
    add('--machines', type=int, default=1, metavar='N', help='default %(default)s')
    add('--machine', type=int, default=0, metavar='I', help='which one this is, from 0, where the scheduler runs')
    add('--address', default='127.0.0.1', metavar='HOST', help='of machine 0; needed for several machines')
    add('--port', type=int, metavar='N', help='of the scheduler; needed for several machines, else a free one')
    add('script', help='what all roles run')
    add('arguments', nargs=argparse.REMAINDER, help="the script's own")
    args = parser.parse_args()
    for name, least in ('workers', 1), ('servers', 1), ('machines', 1), ('machine', 0):
        if getattr(args, name) < least:
            parser.error('--%s must be at least %d (saw: %d)' % (name, least, getattr(args, name)))
    if args.machine >= args.machines:
        parser.error('--machine must be less than --machines (saw: %d of %d)' % (args.machine, args.machines))
    if args.machines > 1 and (args.port is None or args.address == '127.0.0.1'):
        parser.error('several machines need the --address and a --port of machine 0')
    if not os.path.isfile(args.script):
        parser.error(f'script: no such file (saw: {args.script})')
    return args


def environment(args):
    """What all roles of this machine read."""
    port = args.port
    if port is None:
        with socket.socket() as free:
            free.bind((args.address, 0))
            port = free.getsockname()[1]
    env = dict(os.environ, DMLC_PS_ROOT_URI=args.address, DMLC_PS_ROOT_PORT=str(port),
               DMLC_NUM_WORKER=str(args.workers * args.machines), DMLC_NUM_SERVER=str(args.servers * args.machines))
    if args.machines == 1:
        env['DMLC_NODE_HOST'] = '127.0.0.1'     # else servers, which unpickle what they are sent, listen to the network
    # Threads beyond the processors would wait for each other by turning in circles.
    env.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // args.workers)))
    return env


def start(args, processes):
    """Start the roles of this machine; ``processes`` gets name -> Popen."""
    env = environment(args)
    roles = [('scheduler', 'scheduler')] * (args.machine == 0)
    for role, count in ('server', args.servers), ('worker', args.workers):
        roles += [('%s %d' % (role, args.machine * count + i), role) for i in range(count)]
    # Ctrl-C is for this process alone, which then ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, role in roles:
        processes[name] = subprocess.Popen([sys.executable, args.script] + args.arguments,
                                           env=dict(env, DMLC_ROLE=role))
    signal.signal(signal.SIGINT, interrupted)
    print('launch.py: started {}'.format(', '.join(
        '%s (%d)' % (name, process.pid) for name, process in processes.items())), file=sys.stderr, flush=True)


def interrupted(number, _):
    sys.exit(f'launch.py: error: {signal.Signals(number).name}; all roles of this machine are stopped')


def ended(code):
    return f'was killed by {signal.Signals(-code).name}' if code < 0 else 'ended with status %d' % code


def watch(processes):
    """Wait until all have ended; returns what went wrong, None if nothing did."""
    deadline = None
    while deadline is None or time.monotonic() < deadline:
        codes = {name: process.poll() for name, process in processes.items()}
        failed = ['%s (%d) %s' % (name, processes[name].pid, ended(code)) for name, code in codes.items() if code]
        if failed:
            return ', '.join(failed)
        running = [name for name, code in codes.items() if code is None]
        if not running:
            return None
        if deadline is None and not any(name.startswith('worker') for name in running):
            deadline = time.monotonic() + END
        time.sleep(0.05)
    return '%s did not end within %d s after the workers' % (', '.join(running), END)


def main():
    args, processes = arguments(), {}
    signal.signal(signal.SIGTERM, interrupted)
    try:
        start(args, processes)
        failure = watch(processes)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
    if failure:
        sys.exit(f'launch.py: error: {failure}; all other roles of this machine are stopped; the same command starts '
                 'them again, from the last checkpoint if there is one')


if __name__ == '__main__':
    main()
