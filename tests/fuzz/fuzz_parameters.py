# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The target ``parameters``: damaged files of ``net.save_parameters`` for ``net.load_parameters``.

``load_parameters`` is Gluon's own. It sets one Parameter after the other, so it may set some of them before it refuses
a file. Each Parameter must then be either as it was, or as the file says. Of two arrays with one name MXNet takes the
last.
"""
import contextlib
import functools
import os
import tempfile

import mxnet as mx
import numpy as np
from fuzz_mutations import damaged_bytes, damaged_fields
from fuzz_params_file import joined, layout
from fuzz_runs import Pool, arrays_of_world, differences, random_kind, trained, wrong_masks
from fuzz_worker import Outcome
from mxnet import nd

__all__ = ['run']

POOL = Pool()


def run(case):
    """Damage a file, load it, and look at what happened."""
    random = case.random
    # What load_parameters does depends neither on the Trainer nor on its optimizer.
    kind = random_kind(random)._replace(optimizer='sgd', schedule='none')
    options = random.choice([{}, {}, {}, {'allow_missing': True}, {'ignore_extra': True},
                             {'allow_missing': True, 'ignore_extra': True}, {'cast_dtype': True}])
    with arrays_of_world(kind.np_arrays):
        content = written(kind._replace(deferred=False))
        damaged = damage(random, content)
        path = case.folder / 'net.params'
        path.write_bytes(damaged)
        case.mxnet_alone(True)
        alone = read_alone(path)
        case.mxnet_alone(False)
        target, before = POOL.take(kind)
        outcome = load(path, target, before, options, damaged, content, alone)
        # A file that is refused may have changed Parameters.
        if outcome.outcome == 'accepted' or target.state() != before:
            POOL.drop(kind)
    return outcome


@functools.lru_cache(maxsize=100)
def written(kind):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'net.params')
        trained(kind).net.save_parameters(path)
        with open(path, 'rb') as file:
            return file.read()


def read_alone(path):
    """Name -> array, as MXNet reads the file; None if it refuses the file."""
    try:
        found = (mx.npx if mx.util.is_np_array() else nd).load(str(path))
        nd.waitall()
        arrays = {}
        for name, value in found.items():       # a list, which has no names, is none of a network's
            with contextlib.suppress(mx.MXNetError):        # a shape that MXNet itself cannot show
                arrays[name] = value.asnumpy()
    except Exception:
        return None
    if any('.' in name for name in found):
        return arrays
    # The names of an older format.
    return {name[4:] if name.startswith(('arg:', 'aux:')) else name: value for name, value in arrays.items()}


def load(path, target, before, options, damaged, undamaged, alone):
    """Load the file, whose arrays are ``alone``, into ``target``."""
    try:
        target.net.load_parameters(str(path), **options)
        nd.waitall()
        outcome = 'accepted'
    except Exception as error:
        outcome, refusal = 'refused', f'{type(error).__name__}: {str(error)[:200]}'
        findings = [] if str(error) else [f'the error must say something (saw: {refusal})']
    else:
        findings, refusal = [], ''
    if path.read_bytes() != damaged:
        findings.append('the file changed')
    findings += [f'{name}: {refusal}' for name in wrong_changes(target, before, options, outcome, alone or {})]
    findings += [f'the mask of {name} is not that of its values: {refusal}' for name in wrong_masks(target)]
    if outcome == 'accepted':
        if alone is None:
            findings.append('the file was accepted, and MXNet cannot read it')
        elif not options and not target.kind.deferred and names_once(damaged):
            findings += [f'a change of the header was accepted, and changed {name}'
                         for name in wrong_changes(target, before, {}, 'accepted', meant(damaged, undamaged))]
        try:
            target.net(target.batch(0, target.ctx[0])[0])
            target.step(9)
        except Exception as error:
            # With allow_missing, a network may lack Parameters. Before shapes are known, Gluon compares only as many
            # axes as both shapes have.
            if not target.kind.deferred:
                findings.append(f'the file was accepted, and the network fails: {type(error).__name__}: '
                                f'{str(error)[:500]}')
    return Outcome(outcome, findings)


def wrong_changes(target, before, options, outcome, arrays):
    """What in a network is neither as it was nor as the file says, with the names of the file."""
    wrong, after = [], target.state()
    params, names = target.net._collect_params_with_prefix(), {}
    for name, param in params.items():
        names.setdefault(id(param), []).append(name)
    for name in differences(before, after):
        key, _, what = name.rpartition('/')
        if key.startswith('params/') and key[len('params/'):] in params:
            # The mask follows from the values, which are compared; the rest is what initialization makes.
            if what == 'data' or what in ('mask', 'grad', 'deferred', 'shape') and (
                    what in ('mask', 'grad') or target.kind.deferred):
                continue
        wrong.append(f'{name} changed')
    for name, param in params.items():
        told = [arrays[each] for each in names[id(param)] if each in arrays]
        old = before[f'params/{name}/data']
        if param._data is None:
            if old is not None or outcome == 'accepted' and told:
                wrong.append(f'{name} has no values')
            continue
        for place, data in enumerate(param._data):
            new = data.asnumpy()
            fits = [value for value in told if value.shape == new.shape and
                    value.astype(new.dtype).tobytes() == new.tobytes()]
            kept = old is not None and old[place][1] == (data.dtype, new.shape, new.tobytes())
            if not (fits or kept and (outcome == 'refused' or not told) or follows(param, told, old)):
                wrong.append(f'{name} is not what the file has')
    return wrong


def follows(param, told, old):
    """Whether a Parameter was not initialized, and is now because it follows another one that the file has."""
    return old is None and not told and hasattr(param, 'mu')


def names_once(content):
    """Whether a file has each name once; False if its layout cannot be read."""
    try:
        names = [content[place:place + size] for place, size in layout(content).names]
    except Exception:
        return True
    return len(set(names)) == len(names)


def meant(damaged, undamaged):
    """The arrays that a file which was accepted must have given: data may differ, and names and shapes may not."""
    wanted = arrays_of(undamaged)
    try:
        found = arrays_of(damaged)
    except Exception:
        return wanted
    return {name: found[name] if name in found and found[name].shape == array.shape else array
            for name, array in wanted.items()}


def arrays_of(content):
    """Name -> array of an undamaged file, without MXNet."""
    parts, found = layout(content), {}
    for (place, size), (begin, _), (data, data_size) in zip(parts.names, parts.arrays, parts.data):
        ndim = int.from_bytes(content[begin + 8:begin + 12], 'little')
        shape = np.frombuffer(content, np.int64, ndim, begin + 12)
        found[content[place:place + size].decode()] = np.frombuffer(
            content[data:data + data_size], np.float32).reshape(shape)
    return found


def damage(random, content):
    """A damaged file. Most of what MXNet refuses at once are cuts, so there are few of these."""
    parts = layout(content)
    group = random.choice(['bytes', 'bytes', 'fields', 'fields', 'fields', 'header', 'parts', 'parts', 'parts', 'data'])
    if group == 'bytes':
        return damaged_bytes(random, content)
    if group == 'fields':
        for _ in range(random.choice([1, 1, 2])):
            content = damaged_fields(random, content, parts.fields)
        return content
    if group == 'header':       # a flipped bit outside of the data
        outside = [place for begin, size in parts.fields + parts.names for place in range(begin, begin + size)]
        place = random.choice(outside)
        return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1:]
    if group == 'data':
        place, size = random.choice([part for part in parts.data if part[1]])
        begin = place + 4 * random.randrange(size // 4)
        number = np.float32(random.choice([float('nan'), float('inf'), -1e30, -1e31, 0., 1e-45])).tobytes()
        return content[:begin] + number + content[begin + 4:]
    arrays = [content[place:place + size] for place, size in parts.arrays]
    names = [content[place:place + size] for place, size in parts.names]
    return damaged_parts(random, content, arrays, names)


def damaged_parts(random, content, arrays, names):
    place, other, kind = random.randrange(len(names)), random.randrange(len(names)), random.randrange(8)
    if kind == 0:
        names[place] = random.choice([names[other], b'', names[place] + b'x', b'\xff\xfe', names[place][2:],
                                      b'arg:' + names[place], names[place] + b'\0', b'x' * 5000])
    elif kind == 1:
        names[place], names[other] = names[other], names[place]
    elif kind == 2:
        del names[place], arrays[place]
    elif kind == 3:
        del random.choice([names, arrays])[place]
    elif kind == 4:
        names.append(random.choice([names[place], b'more', b'9.weight']))
        arrays.append(arrays[other])
    elif kind == 5:
        names[:] = random.choice([[], [name.replace(b'.', b'_') for name in names], [b'run_' + name for name in names]])
    elif kind == 6:
        arrays[place], arrays[other] = arrays[other], arrays[place]
    else:       # another shape or another type, which MXNet itself writes
        array = arrays_of(joined(content, arrays, names))[names[place].decode()]
        shape = random.choice([(array.size,), (1,) + array.shape, array.shape + (1,), array.shape[::-1], (2, 2),
                               array.shape + (3,)])
        dtype = random.choice(['float32', 'float32', 'float64', 'float16', 'int32', 'int8', 'uint8', 'int64'])
        arrays[place] = as_mxnet_writes(np.resize(array, shape).astype(dtype))
    return joined(content, arrays, names)


def as_mxnet_writes(array):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'one')
        if mx.util.is_np_array():
            mx.npx.save(path, {'x': mx.np.array(array, dtype=array.dtype)})
        else:
            nd.save(path, {'x': nd.array(array, dtype=array.dtype)})
        with open(path, 'rb') as file:
            content = file.read()
    (place, size), = layout(content).arrays
    return content[place:place + size]
