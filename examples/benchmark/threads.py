# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What OMP_NUM_THREADS brings to a training step and a prediction of a Bayesian network.

Each setting is a process of its own, as the variable is read when MXNet is imported; they take turns. 784-400-400-10,
batch 128, scale mixture prior, 'fusedadam'. Prints a Markdown table.
"""
import os
import subprocess
import sys

VARIABLE = 'OMP_NUM_THREADS'
ROUNDS = 15


def serve():
    """Times a turn of steps, and one of predictions, for each line of input."""
    import time

    import step_time    # which imports bbb_layers before mxnet
    import mxnet as mx

    mx.random.seed(0)
    data = mx.nd.random.uniform(0, 2, shape=(128, step_time.INPUTS))
    label = mx.nd.random.randint(0, step_time.OUTPUTS, shape=128).astype('float32')
    step = step_time.bayes(data, label, 400, 469, True, 'fusedadam')

    def turn(function, count):
        function()
        mx.nd.waitall()
        start = time.perf_counter()
        for _ in range(count):
            function()
        mx.nd.waitall()
        return (time.perf_counter() - start) / count * 1e3

    for _ in sys.stdin:
        print(turn(step, 20), turn(step.forward, 80), flush=True)


def main():
    if sys.argv[1:]:
        sys.exit('usage: threads.py')
    settings = [None] + [str(2 ** power) for power in range((os.cpu_count() or 1).bit_length())]
    workers = []
    for setting in settings:
        environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
        if setting is not None:
            environment[VARIABLE] = setting
        workers.append(subprocess.Popen([sys.executable, __file__, '--serve'], env=environment, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, universal_newlines=True))
    times = [[] for _ in workers]
    for _ in range(3 + ROUNDS):
        for worker, found in zip(workers, times):
            worker.stdin.write('\n')
            worker.stdin.flush()
            found.append([float(number) for number in worker.stdout.readline().split()])
    for worker in workers:
        worker.communicate()
    print(f'| {VARIABLE} | training step, ms | x the first | prediction, ms | x the first |')
    print('|---|---:|---:|---:|---:|')
    first = None
    for setting, found in zip(settings, times):
        step, forward = (sorted(column)[ROUNDS // 2] for column in zip(*found[3:]))
        first = first or (step, forward)
        print('| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |'.format(setting or 'not set', step, step / first[0], forward,
                                                     forward / first[1]))


if __name__ == '__main__':
    serve() if '--serve' in sys.argv else main()
