# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where the time of a training step goes, by MXNet's profiler: with the native operators and without.

784-400-400-10, batch 128, scale mixture prior, hybridized; 'fusedadam' with the native operators, 'adam' without. The
operators are run one by one, which costs the step some time and shows each for itself. Prints a Markdown table.
"""
import json
import os
import re
import subprocess
import sys

GROUPS = [
    ('draw and KL, forward', r'_bbb_layers_draw'),
    ('draw and KL, backward', r'_backward__bbb_layers_draw'),
    ('the layers, forward', r'FullyConnected|Activation'),
    ('the layers, backward', r'_backward_FullyConnected|_backward_Activation'),
    ('Adam', r'_bbb_layers_adam|_bbb_layers_adam_settle|adam_update|mp_adam_update'),
    ('loss', r'(_backward_)?(log_softmax|pick|sum|broadcast_add|broadcast_mul|Concat|add_n|Reshape)'),
]
REST = "MXNet's other operators"


def group(name):
    """The group of an operator; without native operators, the draw is all that is in no other."""
    return next((title for title, pattern in GROUPS if re.fullmatch(pattern, name)), REST)


def profile(batch_size, units, steps):
    """Milliseconds per step of each group, and of the whole step without the profiler."""
    import time

    import step_time    # which imports bbb_layers before mxnet
    from bbb_layers import native
    import mxnet as mx
    from mxnet import profiler

    fused = native.available()
    mx.random.seed(0)
    data = mx.nd.random.uniform(0, 2, shape=(batch_size, step_time.INPUTS))
    label = mx.nd.random.randint(0, step_time.OUTPUTS, shape=batch_size).astype('float32')
    step = step_time.bayes(data, label, units, 469, True, 'fusedadam' if fused else 'adam')

    def run():
        for _ in range(steps):
            step()
        mx.nd.waitall()

    run()
    start = time.perf_counter()
    run()
    whole = (time.perf_counter() - start) / steps * 1e3
    profiler.set_config(profile_symbolic=True, profile_imperative=True, aggregate_stats=True, filename=os.devnull)
    profiler.set_state('run')
    run()
    profiler.set_state('stop')
    statistics = json.loads(profiler.dumps(format='json'))['Time']['operator']
    times = {title: 0. for title, _ in GROUPS + [(REST, None)]}
    for name, numbers in statistics.items():
        if name not in ('SetValueOp', 'DeleteVariable', 'WaitForVar'):      # those of the engine's
            times[group(name)] += numbers['Total'] / steps
    return {'native': fused, 'whole': whole, 'times': times}


def profiled(use_native, arguments):
    """:func:`profile` in a process of its own."""
    environment = dict(os.environ, BBB_LAYERS_NATIVE=use_native, MXNET_EXEC_BULK_EXEC_TRAIN='0')
    environment.setdefault('OMP_NUM_THREADS', str(os.cpu_count()))
    done = subprocess.run([sys.executable, __file__, '--alone'] + arguments, env=environment, check=True,
                          stdout=subprocess.PIPE, universal_newlines=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    alone = '--alone' in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != '--alone']
    if not all(argument.isdigit() and int(argument) for argument in arguments) or len(arguments) not in (0, 3):
        sys.exit('usage: profile_step.py [batch_size units steps]')
    numbers = [int(argument) for argument in arguments] or [128, 400, 100]
    if alone:
        print(json.dumps(profile(*numbers)))
        return
    before, after = (profiled(use_native, [str(number) for number in numbers]) for use_native in '01')
    if not after['native']:
        sys.exit('the native operators are not available; the logger bbb_layers says why')
    print("| part of the step | MXNet's operators, ms | native, ms | x faster |\n|---|---:|---:|---:|")
    rest = {title: result['times'].pop(REST) for title, result in (('before', before), ('after', after))}
    draw = GROUPS[0][0]
    rows = [('draw and KL, forward and backward', rest['before'] + before['times'][draw],
             after['times'][draw] + after['times'][GROUPS[1][0]] + rest['after'])]
    rows += [(title, before['times'][title], after['times'][title]) for title, _ in GROUPS[2:]]
    rows += [('all operators', sum(row[1] for row in rows), sum(row[2] for row in rows))]
    rows += [('the step, by the clock', before['whole'], after['whole'])]
    for title, slow, fast in rows:
        print(f'| {title} | {slow:.2f} | {fast:.2f} | {slow / fast:.2f} |')


if __name__ == '__main__':
    main()
