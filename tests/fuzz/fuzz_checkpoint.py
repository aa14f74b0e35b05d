# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The target ``checkpoint``: damaged files of ``save_checkpoint`` for ``load_checkpoint``."""
import copy
import functools
import hashlib
import io
import json
import math
import zipfile

import numpy as np
from fuzz_mutations import INTEGERS, damaged_bytes, damaged_json
from fuzz_runs import Pool, arrays_of_world, differences, random_kind, trained, wrong_masks
from fuzz_worker import Outcome
from mxnet import nd

from bbb_layers._mxnet.tree import leaves
from bbb_layers.checkpoint import file as file_module
from bbb_layers.checkpoint import load_checkpoint, save_checkpoint
from bbb_layers.checkpoint.names import MEANS

__all__ = ['run']

MAGIC = file_module.MAGIC[2]
FACTS = {'epoch': 3, 'losses': [1.5, 2.5], 'nested': {'name': 'it', 'none': None, 'flag': True}}
POOL = Pool()


def run(case):
    """Damage a file, load it, and look at what happened."""
    random = case.random
    kind = random_kind(random)
    parts = random.choice(['all', 'all', 'all', 'net', 'net and loss'])
    with arrays_of_world(kind.np_arrays):
        content = file_of(kind)
        damaged, changes_values = damage(random, content)
        if random.random() < 0.1:
            try:
                damaged, changed_too = damage(random, damaged)
                changes_values = changes_values or changed_too
            except Exception:       # the first damage left nothing to which the second could apply
                damaged = damaged_bytes(random, damaged)
        path = case.folder / 'run.checkpoint'
        path.write_bytes(damaged)
        target, before = POOL.take(kind)
        outcome = load(path, target, before, parts, damaged, None if changes_values else content)
        if outcome.outcome == 'accepted' or outcome.findings:
            POOL.drop(kind)
    return outcome


def load(path, target, before, parts, damaged, undamaged):
    """Load ``damaged``, which is in the file, into ``target``; where it is accepted it must do what ``undamaged`` does.
    """
    findings = []
    arguments = [target.net] + {'all': [target.trainer, target.loss], 'net': [], 'net and loss': [None, target.loss]
                                }[parts]
    try:
        facts = load_checkpoint(path, *arguments)
        nd.waitall()
    except Exception as error:
        if type(error) is not ValueError or str(path) not in str(error):
            findings.append(f'the error must be a ValueError that names the file: {type(error).__name__}: {error}')
        after = target.state()
        findings += [f'the file was refused and {name} changed: {error}' for name in differences(before, after)]
        if path.read_bytes() != damaged:
            findings.append('the file was refused and changed')
        return Outcome('refused', findings)
    try:
        meta, arrays = parsed(damaged)
    except Exception as error:
        return Outcome('accepted', [f'the file was accepted and cannot be read: {error}'])
    findings += wrong_values(target, before, parts, meta, arrays)
    if facts != meta['facts'] and not has_nan(facts):
        findings.append(f'the facts must be {meta["facts"]} (saw: {facts})')
    if undamaged is not None and damaged != undamaged:
        findings += [f'the file was accepted, without its value of {name}'
                     for name in wrong_values(target, before, parts, *parsed(undamaged))]
    findings += [f'the mask of {name} is not that of its values' for name in wrong_masks(target)]
    try:
        if parts == 'all':
            target.step(9)
        else:
            target.net(target.batch(0, target.ctx[0])[0])
            nd.waitall()
    except Exception as error:
        findings.append(f'the file was accepted, and then training fails: {type(error).__name__}: {str(error)[:500]}')
    return Outcome('accepted', findings)


# ---- what a file says

def parsed(content):
    """The entries and the arrays of a file, without the package's own reader."""
    with zipfile.ZipFile(io.BytesIO(content[len(MAGIC) + 32:])) as archive:
        arrays = {name[:-len('.npy')]: np.lib.format.read_array(io.BytesIO(archive.read(name)))
                  for name in archive.namelist()}
    return json.loads(arrays.pop('meta').tobytes().decode()), arrays


def wrong_values(target, before, parts, meta, arrays):
    """What in a run is not what a file says; an entry that the file lacks must be as before."""
    findings, values = [], {}

    def compare(name, seen, wanted):
        if not same(seen, wanted):
            findings.append(f'{name}, which must be {str(wanted)[:200]} (saw: {str(seen)[:200]})')

    prefixes = ['params'] + ['loss'] * (parts != 'net')
    for name, param in target.params().items():
        if name.split('/')[0] not in prefixes:
            continue
        each = arrays.get(f'contexts/{name}')
        values[id(param)] = name
        for place, data in enumerate(param.list_data()):
            wanted = arrays[name] if each is None or len(each) != len(target.ctx) else each[place]
            compare(f'{name} on {data.context}', bits(data.asnumpy()), bits(wanted))
    if parts != 'net':
        compare('kl_weight', target.loss.kl_weight, meta['kl_weight'])
        compare('num_train', target.loss.num_train, meta.get('num_train', target.loss.num_train))
    if parts != 'all':
        return findings
    trainer, saved, optimizer = target.trainer, meta['trainer'], target.trainer.optimizer
    for name, param in target.params().items():
        for attribute in ('lr_mult', 'wd_mult', 'grad_req'):
            wanted = saved.get('params', {}).get(name, {}).get(attribute, before[f'{name}/{attribute}'])
            compare(f'{attribute} of {name}', getattr(param, attribute), wanted)
    names = [values[id(param)] for param in trainer._params]
    for context in trainer._contexts:
        compare(f'counts on {context}', {names[index]: count for index, count in
                                         optimizer._all_index_update_counts[context.device_id].items()},
                saved['counts'])
    for updater in trainer._updaters:
        compare('states', {names[index]: [bits(array.asnumpy()) for array in leaves([state])]
                           for index, state in updater.states.items()},
                {name: [bits(arrays[key]) for key in flat(state)] for name, state in saved['states'].items()})
    for what, thing in (('optimizer', optimizer), ('schedule', optimizer.lr_scheduler)):
        if thing is not None:
            for name, wanted in saved[what]['attributes'].items():
                own = getattr(thing, name, None)
                stayed = f'{type(own).__name__} {own!r}' == before.get(f'{what}/{name}')
                # A run keeps a setting that equals the file's, such as True where the file has 1.
                if name not in MEANS and not (stayed and same(own, wanted, strict=False)):
                    compare(f'{name} of the {what}', own, wanted)
            for name in vars(thing).keys() - saved[what]['attributes'].keys() - {'param_dict', 'lr_scheduler'}:
                if not name.startswith('_'):
                    value = getattr(thing, name)
                    compare(f'{name} of the {what}', f'{type(value).__name__} {value!r}', before[f'{what}/{name}'])
    return findings


def flat(state):
    if isinstance(state, list):
        return [key for part in state for key in flat(part)]
    return [] if state is None else [state]


def bits(array):
    return str(array.dtype), array.shape, array.tobytes()


def same(one, other, strict=True):
    """Whether two values are equal, where NaN equals NaN, a list equals a tuple, and True is not 1 if ``strict``."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(*each, strict) for each in zip(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key], strict) for key in one)
    if strict and isinstance(one, bool) != isinstance(other, bool):
        return False
    return one == other or (one != one and other != other)


def has_nan(value):
    if isinstance(value, (list, dict)):
        return any(map(has_nan, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isnan(value)


# ---- damage

@functools.lru_cache(maxsize=200)
def written(kind):
    saved, stored = trained(kind), []
    original = file_module.write_atomically
    try:    # the bytes are wanted, and no file
        file_module.write_atomically = lambda _, content: stored.append(content)
        save_checkpoint('nowhere', saved.net, saved.trainer, saved.loss, **FACTS)
    finally:
        file_module.write_atomically = original
    return stored[0]


def file_of(kind):
    """The bytes of the file that a run of this kind writes after two steps."""
    return written(kind._replace(deferred=False))


def sealed(payload):
    return MAGIC + hashlib.sha256(payload).digest() + payload


def archive_of(members):
    """A sealed file of (name, bytes) of members, where a name may come twice."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return sealed(stream.getvalue())


def members_of(content):
    with zipfile.ZipFile(io.BytesIO(content[len(MAGIC) + 32:])) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def damage(random, content):
    """(a damaged file, whether the damage may change values and not only what describes them)."""
    members = members_of(content)
    group = random.choice(['file', 'payload', 'headers', 'arrays', 'arrays', 'text', 'entries', 'entries', 'entries',
                           'trainer', 'trainer', 'trainer'])
    if group == 'file':
        return damaged_bytes(random, content), False
    if group == 'payload':
        return sealed(damaged_bytes(random, content[len(MAGIC) + 32:])), False
    place = random.randrange(len(members))
    name, member = members[place]
    if group == 'headers':
        return damaged_header(random, members, place)
    if group == 'arrays':
        return damaged_arrays(random, members, place)
    place = [name for name, _ in members].index('meta.npy')
    text = np.lib.format.read_array(io.BytesIO(members[place][1])).tobytes()
    if group == 'text':
        text = damaged_text(random, text)
    else:
        meta = json.loads(text.decode())
        for _ in range(random.choice([1, 1, 1, 1, 2, 3])):
            if group == 'trainer' and isinstance(meta.get('trainer'), (dict, list)) and meta['trainer']:
                meta['trainer'] = damaged_json(random, meta['trainer'])[1]
            elif meta:
                meta = damaged_json(random, meta)[1]
        text = json.dumps(meta).encode()
    members[place] = 'meta.npy', npy(np.frombuffer(text, dtype=np.uint8))
    return archive_of(members), True


def damaged_header(random, members, place):
    name, member = members[place]
    length = member.index(b'\n') + 1
    header = member[:length]
    kind = random.randrange(4)
    if kind == 0:
        header = damaged_bytes(random, header)
    elif kind == 1:
        header = header.replace(b'False', b'True ')
    elif kind == 2:
        old, new = random.choice([(b'<f4', b'>f4'), (b'<f4', b'<i4'), (b'<f4', b'<f8'), (b'<f4', b'|O '),
                                  (b'<f4', b'<u4'), (b"'<f4'", b"'|V4'"), (b'|u1', b'|i1'), (b'|u1', b'|S1')])
        header = header.replace(old, new)
    else:
        size = str(random.choice(INTEGERS)).encode()
        header = header.replace(b"'shape': (", b"'shape': (" + size + random.choice([b', ', b'']), 1)
        extra = len(header) - length
        header = header[:-1 - extra] + b'\n' if header[-1 - extra:-1].strip() == b'' and extra else header
    members[place] = name, header + member[length:]
    return archive_of(members), name == 'meta.npy'


def damaged_arrays(random, members, place):
    name, member = members[place]
    kind = random.randrange(9)
    array = np.lib.format.read_array(io.BytesIO(member))
    changes_values = name == 'meta.npy'
    if kind == 0:
        others = [other for other, _ in members] + [name[:-4] + 'x.npy', 'x.npy', name[:-4], '../' + name, '']
        members[place] = random.choice(others), member
    elif kind == 1:
        members.append((name, random.choice(members)[1]))
    elif kind == 2:
        del members[place]
        changes_values = changes_values or name.startswith('contexts/')     # contexts that do not differ have none
    elif kind == 3:
        shape = random.choice([(array.size,), (1,) + array.shape, array.shape + (1,), array.shape[::-1], (),
                               (0,) + array.shape[1:], (array.size + 1,)])
        members[place] = name, npy(np.resize(array, shape))
    elif kind == 4:
        dtype = random.choice(['float64', 'float16', 'int32', 'int64', 'uint8', 'bool', '>f4', 'complex64', 'S4', 'U2'])
        members[place] = name, npy(array.astype(dtype))
    elif kind == 5:
        values, changes_values = copy.copy(array), True
        if values.size:
            values.reshape(-1)[random.randrange(values.size)] = random.choice(
                [float('nan'), float('inf'), -1e30, -1e31, 0, 1e38, 1e-45]) if values.dtype.kind == 'f' else 1
        members[place] = name, npy(values)
    elif kind == 6:
        other = random.randrange(len(members))
        members[place], members[other] = (name, members[other][1]), (members[other][0], member)
        changes_values = True
    elif kind == 7:
        members[place] = name, npy(np.asfortranarray(array))
    else:
        extra = random.choice(['contexts/params/0.weight', 'contexts/' + name[:-4], 'states/999', 'params/9.weight'])
        stack = np.stack([array] * random.choice([1, 2, 3]))
        members.append((extra + '.npy', npy(random.choice([array, stack]))))
        changes_values = True
    return archive_of(members), changes_values


def damaged_text(random, text):
    kind = random.randrange(4)
    if kind == 0:
        return damaged_bytes(random, text)
    if kind == 1:       # an entry twice
        entry = random.choice([b'"facts": {}, ', b'"params": [], ', b'"kl_weight": 0.75, ', b'"trainer": {}, '])
        return text.replace(b'{', b'{' + entry, 1)
    if kind == 2:
        depth = random.choice([10, 1000, 100000])
        return text.replace(b'{"facts": {', b'{"facts": {"deep": ' + b'[' * depth + b']' * depth + b', ', 1)
    return text.replace(b'"epoch": 3', b'"epoch": ' + random.choice([b'9' * 5000, b'NaN', b'-Infinity', b'1e999', b'']))
