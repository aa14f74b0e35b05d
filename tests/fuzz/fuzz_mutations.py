# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Random damage to bytes, to numbers in bytes, and to values of JSON."""
import copy
import struct

__all__ = ['INTEGERS', 'VALUES', 'damaged_bytes', 'damaged_fields', 'damaged_json']

INTEGERS = [0, 1, 2, 3, 4, 5, 7, 8, -1, -2, 16, 31, 32, 33, 255, 256, 65535, 65536, 2 ** 20, 2 ** 31 - 1, 2 ** 31,
            2 ** 32 - 1, 2 ** 32, 2 ** 62, 2 ** 63 - 1, 2 ** 63, 2 ** 64 - 1]
#: Values of JSON that may stand in the place of any other.
VALUES = [None, True, False, 0, 1, -1, 2, 0.5, -0.5, 1.5, 1e-300, 1e300, float('nan'), float('inf'), -float('inf'),
          2 ** 31 - 1, 2 ** 31, 2 ** 63, 2 ** 64, 10 ** 30, 10 ** 400, -10 ** 400, '', 'x', 'write', 'add', 'null',
          'sgd', 'params/0.weight', 'states/0', '\u0000', '\u6f22', 'x' * 10000, [], [0], [None], [[]], {}, {'a': 1},
          ['write'], [1, 2, 3]]


def damaged_bytes(random, content):
    """``content`` with one change: a cut, flipped bits, bytes that are put in or taken out, or parts swapped."""
    content = bytearray(content)
    place, length = random.randrange(len(content) + 1), min(random.choice([1, 2, 4, 8, 16, 100, 1000]), len(content))
    kind = random.randrange(7)
    if kind == 0:
        return bytes(content[:place])
    if kind == 1:
        for _ in range(random.choice([1, 1, 1, 2, 8])):
            if content:
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    elif kind == 2:
        content[place:place] = bytes(random.randrange(256) for _ in range(length))
    elif kind == 3:
        del content[place:place + length]
    elif kind == 4:
        other = random.randrange(len(content) + 1)
        one, two = content[place:place + length], content[other:other + length]
        content[place:place + len(two)], content[other:other + len(one)] = two, one
    elif kind == 5:
        content[place:place + length] = bytes([random.choice([0, 255, 128, 1])]) * len(content[place:place + length])
    else:
        content += content[place:place + length]
    return bytes(content)


def damaged_fields(random, content, places):
    """``content`` with an interesting integer in one of the fields, which are (place, number of bytes)."""
    place, size = random.choice(places)
    value = random.choice(INTEGERS + [int.from_bytes(content[place:place + size], 'little') + random.choice([-1, 1])])
    return content[:place] + struct.pack('<Q', value % 2 ** 64)[:size] + content[place + size:]


def damaged_json(random, value):
    """(what was done, ``value`` from JSON with one entry changed): replaced, removed, renamed, copied, or moved."""
    value = copy.deepcopy(value)
    containers = list(_containers(value))
    within = random.choice(containers)
    key = random.choice(list(within) if isinstance(within, dict) else range(len(within)))
    kind = random.choice(['replaced'] * 5 + ['removed', 'renamed', 'swapped', 'copied', 'nudged'])
    if kind == 'removed':
        del within[key]
    elif kind == 'renamed' and isinstance(within, dict):
        names = [name for each in containers if isinstance(each, dict) for name in each]
        name = random.choice([key + 'x', key[1:], key.upper(), '', random.choice(names)])
        within[name] = within.pop(key)
    elif kind == 'swapped':
        other = random.choice(list(within) if isinstance(within, dict) else range(len(within)))
        within[key], within[other] = within[other], within[key]
    elif kind == 'copied' and isinstance(within, list):
        within.append(copy.deepcopy(within[key]))
    elif kind == 'nudged' and isinstance(within[key], (int, float)):
        within[key] = random.choice([within[key] + 1, -within[key], within[key] * 0.5, str(within[key]),
                                     float(within[key]), bool(within[key]), [within[key]]])
    else:
        kind, other = 'replaced', random.choice(containers)
        if random.random() < 0.2 and other:
            new = copy.deepcopy(random.choice(list(other.values() if isinstance(other, dict) else other)))
        else:
            new = copy.deepcopy(random.choice(VALUES))
        within[key] = new
    return kind, value


def _containers(value):
    """All lists and dicts in a value that are not empty."""
    if isinstance(value, (list, dict)) and value:
        yield value
        for each in value.values() if isinstance(value, dict) else value:
            yield from _containers(each)
