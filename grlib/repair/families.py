"""Families of small programming problems: statement variants, a reference solution, what the inputs are.

A family is a block of text: a head `name | topic | arguments | constants`, two or more lines `- statement`,
then the reference. Names in braces are constants that each instance draws. An argument is `name: kind`,
kinds as in `grlib.repair.problems.KINDS`. A family whose head ends in `| far` is never trained on; it
combines what others teach.
"""

from __future__ import annotations

FAMILIES = """
keep_multiples | lists | xs: ints | k=2..7
- Return the numbers of xs that are divisible by {k}, in order.
- Keep only the multiples of {k} in the list xs.
def solve(xs):
    return [x for x in xs if x % {k} == 0]

drop_small | lists | xs: ints | t=-5..9
- Return the numbers of xs that are greater than {t}, in order.
- Remove every number of the list xs that is at most {t}.
def solve(xs):
    return [x for x in xs if x > {t}]

scale_shift | lists | xs: ints | a=2..6 b=1..9
- Multiply every number of xs by {a}, then add {b}.
- Return the list of {a} * x + {b} for the numbers x of xs.
def solve(xs):
    return [{a} * x + {b} for x in xs]

clamp_all | lists | xs: ints | lo=-9..-1 hi=1..9
- Replace numbers of xs below {lo} by {lo} and numbers above {hi} by {hi}.
- Limit every number of xs to the range from {lo} to {hi}.
def solve(xs):
    return [max({lo}, min({hi}, x)) for x in xs]

sum_over | lists | xs: ints | t=-5..9
- Return the sum of the numbers of xs that are greater than {t}.
- Add up all numbers of the list xs above {t}.
def solve(xs):
    total = 0
    for x in xs:
        if x > {t}:
            total += x
    return total

count_equal | lists | xs: ints | v=-5..9
- How many numbers of xs are equal to {v}?
- Count how often {v} occurs in the list xs.
def solve(xs):
    count = 0
    for x in xs:
        if x == {v}:
            count += 1
    return count

every_nth | lists | xs: ints | k=2..4 s=0..2
- Return every {k}th number of xs, starting with the one at index {s}.
- Take the numbers of xs at the indices {s}, {s} + {k}, {s} + 2 * {k} and so on.
def solve(xs):
    return xs[{s}::{k}]

rotate_left | lists | xs: ints | k=1..5
- Move the first {k} numbers of xs to its end; a short list goes round more than once.
- Rotate the list xs to the left by {k} places.
def solve(xs):
    if not xs:
        return []
    k = {k} % len(xs)
    return xs[k:] + xs[:k]

running_sums | lists | xs: ints | b=0..9
- Return the running sums of xs, starting from {b}.
- For each number of xs return {b} plus the sum of all numbers up to it.
def solve(xs):
    total = {b}
    sums = []
    for x in xs:
        total += x
        sums.append(total)
    return sums

differences | lists | xs: ints | c=0..9
- Return the differences between neighbours of xs, later minus earlier, each increased by {c}.
- For neighbours a, b in the list xs return b - a + {c}.
def solve(xs):
    return [xs[i + 1] - xs[i] + {c} for i in range(len(xs) - 1)]

largest_k | lists | xs: ints | k=1..4
- Return the {k} largest numbers of xs, the largest first.
- Sort xs from large to small and return the first {k} numbers.
def solve(xs):
    return sorted(xs, reverse=True)[:{k}]

smallest_k | lists | xs: ints | k=1..4
- Return the {k} smallest numbers of xs, the smallest first.
- Sort xs from small to large and return the first {k} numbers.
def solve(xs):
    return sorted(xs)[:{k}]

sort_by_rest | lists | xs: nats | k=3..9
- Sort xs by the remainder after division by {k}; equal remainders keep their order.
- Order the numbers of xs by x % {k}, ties as they stand.
def solve(xs):
    return sorted(xs, key=lambda x: x % {k})

sort_by_distance | lists | xs: ints | c=-5..9
- Sort xs by the distance to {c}, the nearest first; ties keep their order.
- Order the numbers of xs by how far they are from {c}.
def solve(xs):
    return sorted(xs, key=lambda x: abs(x - {c}))

dedupe_upto | lists | xs: smalls | k=1..3
- Keep at most {k} copies of each number of xs, the earliest ones.
- Return xs without the copies of a number beyond the first {k}.
def solve(xs):
    kept = []
    for x in xs:
        if kept.count(x) < {k}:
            kept.append(x)
    return kept

pair_count | lists | xs: smalls | t=2..9
- How many pairs of places i < j of xs hold numbers with the sum {t}?
- Count the pairs of numbers of xs, at different places, that add up to {t}.
def solve(xs):
    count = 0
    for i in range(len(xs)):
        for j in range(i + 1, len(xs)):
            if xs[i] + xs[j] == {t}:
                count += 1
    return count

chunks | lists | xs: ints | k=2..4
- Cut xs into pieces of {k} numbers; the last one may be shorter.
- Return a list of lists: xs in groups of {k}.
def solve(xs):
    return [xs[i:i + {k}] for i in range(0, len(xs), {k})]

window_sums | lists | xs: ints | k=2..4
- Return the sums of all {k} neighbouring numbers of xs.
- For every window of {k} numbers of the list xs return its sum.
def solve(xs):
    return [sum(xs[i:i + {k}]) for i in range(len(xs) - {k} + 1)]

longest_run_above | lists | xs: ints | t=-3..5
- How long is the longest run of neighbours of xs that are all greater than {t}?
- Return the length of the longest stretch of xs with numbers above {t} only.
def solve(xs):
    best = run = 0
    for x in xs:
        run = run + 1 if x > {t} else 0
        best = max(best, run)
    return best

first_index_over | lists | xs: ints | t=0..12
- Return the index of the first number of xs greater than {t}, or -1.
- At which index does xs first exceed {t}? Return -1 if it never does.
def solve(xs):
    for i, x in enumerate(xs):
        if x > {t}:
            return i
    return -1

last_index_under | lists | xs: ints | t=-5..5
- Return the index of the last number of xs less than {t}, or -1.
- At which index is xs below {t} for the last time? Return -1 if it never is.
def solve(xs):
    found = -1
    for i, x in enumerate(xs):
        if x < {t}:
            found = i
    return found

zip_add | lists | xs: ints, ys: ints | c=1..5
- Add xs and {c} times ys place by place, as far as the shorter list goes.
- Return x + {c} * y for the numbers x of xs and y of ys at equal places.
def solve(xs, ys):
    return [x + {c} * y for x, y in zip(xs, ys)]

common_over | lists | xs: smalls, ys: smalls | t=0..4
- Return the numbers of xs, in order, that also occur in ys and exceed {t}.
- Which numbers of xs are in ys too and greater than {t}? Keep their order.
def solve(xs, ys):
    return [x for x in xs if x in ys and x > {t}]

dot_mod | lists | xs: nats, ys: nats | m=5..20
- Multiply xs and ys place by place, add up, and return the remainder after division by {m}.
- Return the dot product of xs and ys modulo {m}.
def solve(xs, ys):
    total = 0
    for x, y in zip(xs, ys):
        total += x * y
    return total % {m}

row_sums_over | grids | grid: grid | t=5..20
- How many rows of the grid have a sum greater than {t}?
- Count the rows of grid whose numbers add up to more than {t}.
def solve(grid):
    count = 0
    for row in grid:
        if sum(row) > {t}:
            count += 1
    return count

column | grids | grid: grid | c=0..1
- Return column {c} of the grid, from top to bottom.
- Return the number at index {c} of every row of grid.
def solve(grid):
    return [row[{c}] for row in grid]

transpose_plus | grids | grid: grid | b=1..9
- Turn rows into columns and add {b} to every number.
- Return the transposed grid with every number increased by {b}.
def solve(grid):
    return [[x + {b} for x in column] for column in zip(*grid)]

border_sum | grids | grid: grid | w=1..3
- Add up the numbers on the border of the grid and multiply the sum by {w}.
- Return {w} times the sum of all numbers in the first and last row and column of grid.
def solve(grid):
    total = 0
    for i, row in enumerate(grid):
        for j, x in enumerate(row):
            if i in (0, len(grid) - 1) or j in (0, len(row) - 1):
                total += x
    return {w} * total

digit_sum_plus | numbers | n: nat | b=1..9
- Return the sum of the digits of n, plus {b}.
- Add {b} to the digit sum of the number n.
def solve(n):
    return sum(int(d) for d in str(n)) + {b}

count_digit | numbers | n: nat | d=0..9
- How often does the digit {d} occur in n?
- Count the digits of n that are {d}.
def solve(n):
    return str(n).count('{d}')

divisors_over | numbers | n: pos | t=1..5
- How many divisors of n are greater than {t}?
- Count the numbers above {t} that divide n.
def solve(n):
    count = 0
    for d in range({t} + 1, n + 1):
        if n % d == 0:
            count += 1
    return count

power_mod | numbers | n: nat, e: small | m=7..30
- Return n to the power e, modulo {m}.
- Multiply n with itself e times and return the remainder after division by {m}.
def solve(n, e):
    result = 1
    for _ in range(e):
        result = result * n % {m}
    return result

steps_down | numbers | n: nat | k=2..5
- Divide n by {k}, rounding down, until it is 0. How many divisions are needed?
- How often can n be divided by {k}, rounded down, before it is 0?
def solve(n):
    steps = 0
    while n > 0:
        n //= {k}
        steps += 1
    return steps

to_base | numbers | n: nat | b=2..9
- Write n in base {b} and return the text.
- Return the digits of n in base {b} as text; 0 gives '0'.
def solve(n):
    if n == 0:
        return '0'
    digits = ''
    while n > 0:
        digits = str(n % {b}) + digits
        n //= {b}
    return digits

multiples_sum | numbers | n: nat | a=2..7
- Add up all multiples of {a} from 1 to n.
- Return the sum of the numbers up to n that {a} divides.
def solve(n):
    total = 0
    for i in range(1, n + 1):
        if i % {a} == 0:
            total += i
    return total

gcd_plus | numbers | a: pos, b: pos | c=1..9
- Return the greatest common divisor of a and b, plus {c}.
- Add {c} to the largest number that divides both a and b.
def solve(a, b):
    while b:
        a, b = b, a % b
    return a + {c}

collatz | numbers | n: pos | m=3..5:2
- While n is not 1: halve it if it is even, else take {m} * n + 1; at most 20 steps. How many steps are made?
- Count the steps from n to 1: n // 2 for even n, {m} * n + 1 for odd n, at most 20.
def solve(n):
    steps = 0
    while n != 1 and steps < 20:
        n = n // 2 if n % 2 == 0 else {m} * n + 1
        steps += 1
    return steps

fib_like | numbers | n: small | a=0..4 b=1..5
- A sequence starts with {a} and {b}; each further number is the sum of the last two. Return number n.
- Return element n of the sequence {a}, {b}, ... in which each element is the sum of the last two.
def solve(n):
    x, y = {a}, {b}
    for _ in range(n):
        x, y = y, x + y
    return x

grade | numbers | n: pos | lo=10..20 hi=25..40
- Return 'low' if n is below {lo}, 'mid' if it is below {hi}, else 'high'.
- Name the size of n: 'low' up to {lo} (excluded), then 'mid' up to {hi} (excluded), then 'high'.
def solve(n):
    if n < {lo}:
        return 'low'
    if n < {hi}:
        return 'mid'
    return 'high'

fizz | numbers | n: nat | a=2..4 b=5..7
- Return 'both' if {a} and {b} divide n, 'a' if only {a} does, 'b' if only {b} does, else n as text.
- Which of {a} and {b} divide n? Answer 'both', 'a', 'b', or the number n as text.
def solve(n):
    if n % {a} == 0 and n % {b} == 0:
        return 'both'
    if n % {a} == 0:
        return 'a'
    if n % {b} == 0:
        return 'b'
    return str(n)

digits_over | numbers | n: nat | t=2..6
- Return the digits of n that are greater than {t}, as a list of numbers.
- List the digits of n above {t}, from left to right.
def solve(n):
    return [int(d) for d in str(n) if int(d) > {t}]

count_letter | strings | s: word | c=letter
- How often does the letter '{c}' occur in s?
- Count the letters '{c}' in the word s.
def solve(s):
    return s.count('{c}')

replace_letter | strings | s: word | c=letter d=letter
- Replace every '{c}' in s by '{d}'.
- Return s with '{d}' in place of each '{c}'.
def solve(s):
    return s.replace('{c}', '{d}')

drop_letter | strings | s: word | c=letter
- Return s without its letters '{c}'.
- Remove every '{c}' from the word s.
def solve(s):
    return ''.join(x for x in s if x != '{c}')

shift_letters | strings | s: word | k=1..5
- Replace each letter of s by the one {k} places later in the alphabet; after z comes a.
- Shift the letters of s by {k}, going round from z to a.
def solve(s):
    out = ''
    for c in s:
        out += chr((ord(c) - 97 + {k}) % 26 + 97)
    return out

pad_left | strings | s: word | w=5..9 c=mark
- Put '{c}' before s until it has {w} letters; a longer s stays.
- Fill s with '{c}' on the left up to the length {w}.
def solve(s):
    while len(s) < {w}:
        s = '{c}' + s
    return s

repeat_join | strings | s: word | k=2..4 c=mark
- Write s {k} times with '{c}' between the copies.
- Join {k} copies of s by '{c}'.
def solve(s):
    return '{c}'.join([s] * {k})

upper_nth | strings | s: word | k=2..4
- Write every {k}th letter of s, starting with the first, in upper case.
- Turn the letters of s at indices divisible by {k} to upper case.
def solve(s):
    out = ''
    for i, c in enumerate(s):
        out += c.upper() if i % {k} == 0 else c
    return out

reverse_words | strings | s: text | c=mark
- Return the words of s in reverse order, joined by '{c}'.
- Reverse the order of the words in s and put '{c}' between them.
def solve(s):
    return '{c}'.join(s.split()[::-1])

long_words | strings | s: text | k=2..5
- Return the words of s with more than {k} letters.
- List the words of the text s that are longer than {k}.
def solve(s):
    return [w for w in s.split() if len(w) > {k}]

word_lengths | strings | s: text | b=0..5
- Return the lengths of the words of s, each plus {b}.
- For each word of s return its number of letters increased by {b}.
def solve(s):
    return [len(w) + {b} for w in s.split()]

first_letters | strings | s: text | k=1..3
- Take the first {k} letters of every word of s and join them.
- Return one text: the first {k} letters of each word of s.
def solve(s):
    return ''.join(w[:{k}] for w in s.split())

vowels_plus | strings | s: word | b=1..9
- Count the vowels a, e, i, o, u of s and add {b}.
- Return {b} plus the number of vowels in s.
def solve(s):
    count = {b}
    for c in s:
        if c in 'aeiou':
            count += 1
    return count

is_palindrome | strings | s: word | k=0..2
- Is s without its first {k} letters the same backwards?
- Return whether s from index {k} on is a palindrome.
def solve(s):
    t = s[{k}:]
    return t == t[::-1]

run_lengths | strings | s: runs | c=mark
- Write each run of equal letters as the letter, '{c}' and the length of the run.
- Encode s by its runs: letter, '{c}', number of repetitions.
def solve(s):
    out = ''
    i = 0
    while i < len(s):
        j = i
        while j < len(s) and s[j] == s[i]:
            j += 1
        out += s[i] + '{c}' + str(j - i)
        i = j
    return out

common_prefix | strings | s: runs, t: runs | c=mark
- Return the longest common beginning of s and t, followed by '{c}'.
- With which letters do both s and t begin? Put '{c}' after them.
def solve(s, t):
    k = 0
    while k < min(len(s), len(t)) and s[k] == t[k]:
        k += 1
    return s[:k] + '{c}'

letters_before | strings | s: word | c=later
- Which letters of s come before '{c}' in the alphabet? Keep their order.
- Keep the letters of s that are smaller than '{c}'.
def solve(s):
    return ''.join(x for x in s if x < '{c}')

walk | simulation | moves: moves | x=0..5 s=1..3
- A walker at {x} goes {s} to the right for 'R' and {s} to the left for 'L'. Where does it end?
- Start at position {x}; each 'R' in moves adds {s}, each 'L' takes {s} away. Return the position.
def solve(moves):
    x = {x}
    for m in moves:
        if m == 'R':
            x += {s}
        else:
            x -= {s}
    return x

walk_wall | simulation | moves: moves | w=2..5
- A walker at 0 goes right for 'R' and left for 'L', but never below 0 or above {w}. Where does it end?
- Move between 0 and {w}: 'R' is +1, 'L' is -1, and steps beyond either end are ignored. Return the position.
def solve(moves):
    x = 0
    for m in moves:
        if m == 'R' and x < {w}:
            x += 1
        elif m == 'L' and x > 0:
            x -= 1
    return x

account | simulation | xs: ints | b=5..20
- An account holds {b}. Apply the payments xs, but skip those that would make it negative. What is left?
- Start with {b}, add each number of xs unless the result would be below 0, and return the result.
def solve(xs):
    balance = {b}
    for x in xs:
        if balance + x >= 0:
            balance += x
    return balance

tank | simulation | xs: ints | m=10..25
- A tank starts empty and holds 0 to {m}, never less or more. Add each number of xs in order; what is in it?
- Add the numbers of xs one by one, limiting the sum to 0 and {m} after each. Return the end.
def solve(xs):
    level = 0
    for x in xs:
        level = max(0, min({m}, level + x))
    return level

queue_out | simulation | xs: ints | k=1..3
- Put the numbers of xs into a queue; when it holds more than {k}, the first leaves. List who left.
- A queue has room for {k}. For each number of xs, the oldest leaves if it is full. List the leavers.
def solve(xs):
    queue = []
    left = []
    for x in xs:
        queue.append(x)
        if len(queue) > {k}:
            left.append(queue.pop(0))
    return left

stack_undo | simulation | xs: ints | u=-3..3
- Push the numbers of xs on a stack, but {u} removes the top one, if there is one. Return the stack.
- Read xs in order: {u} undoes the last number kept, any other number is kept. Return the numbers kept.
def solve(xs):
    stack = []
    for x in xs:
        if x == {u}:
            if stack:
                stack.pop()
        else:
            stack.append(x)
    return stack

light_switch | simulation | xs: nats | n=4..8
- {n} lamps are off. Each number x of xs switches lamp x % {n}. How many are on at the end?
- Toggle lamp x % {n} of {n} lamps, all off at first, for each x of xs. Count the lamps that are on.
def solve(xs):
    lamps = [False] * {n}
    for x in xs:
        lamps[x % {n}] = not lamps[x % {n}]
    return sum(lamps)

game_score | simulation | moves: moves | p=2..5 q=1..3
- 'R' scores {p} points, 'L' costs {q}, but the score never falls below 0. Return the score.
- Start at 0; add {p} for each 'R' and take {q} away for each 'L' of moves, stopping at 0. Return the end.
def solve(moves):
    score = 0
    for m in moves:
        if m == 'R':
            score += {p}
        else:
            score = max(0, score - {q})
    return score

days_to_reach | simulation | n: pos | g=2..9
- A plant of height 1 grows {g} a day. After how many days is it at least n high?
- Start with 1 and add {g} each day; return the first day on which the number is n or more.
def solve(n):
    height, days = 1, 0
    while height < n:
        height += {g}
        days += 1
    return days

sum_multiples | lists | xs: ints | k=2..7 | far
- Return the sum of the numbers of xs that are divisible by {k}.
- Add up the multiples of {k} in the list xs.
def solve(xs):
    total = 0
    for x in xs:
        if x % {k} == 0:
            total += x
    return total

count_over | lists | xs: ints | t=-5..9 | far
- How many numbers of xs are greater than {t}?
- Count the numbers of the list xs above {t}.
def solve(xs):
    count = 0
    for x in xs:
        if x > {t}:
            count += 1
    return count

scale_kept | lists | xs: ints | t=-5..5 a=2..6 | far
- Multiply the numbers of xs that are greater than {t} by {a}, and drop the others.
- Return {a} * x for the numbers x of xs above {t}.
def solve(xs):
    return [{a} * x for x in xs if x > {t}]

last_index_equal | lists | xs: smalls | v=0..5 | far
- Return the index of the last number of xs equal to {v}, or -1.
- At which index does {v} occur in xs for the last time? Return -1 if it never does.
def solve(xs):
    found = -1
    for i, x in enumerate(xs):
        if x == {v}:
            found = i
    return found

count_digits_over | numbers | n: nat | t=2..6 | far
- How many digits of n are greater than {t}?
- Count the digits of the number n above {t}.
def solve(n):
    count = 0
    for d in str(n):
        if int(d) > {t}:
            count += 1
    return count

letters_and_more | strings | s: word | c=letter b=1..9 | far
- Count the letters '{c}' of s and add {b}.
- Return {b} plus the number of letters '{c}' in s.
def solve(s):
    count = {b}
    for x in s:
        if x == '{c}':
            count += 1
    return count

long_words_joined | strings | s: text | k=2..5 c=mark | far
- Join the words of s with more than {k} letters by '{c}'.
- Return the words of s that are longer than {k}, with '{c}' between them.
def solve(s):
    return '{c}'.join(w for w in s.split() if len(w) > {k})

walk_highest | simulation | moves: moves | x=0..5 | far
- A walker at {x} goes one step right for 'R' and left for 'L'. What is the greatest position that it reaches?
- Start at {x}; 'R' adds 1, 'L' takes 1 away. Return the largest position on the way.
def solve(moves):
    x = best = {x}
    for m in moves:
        if m == 'R':
            x += 1
        else:
            x -= 1
        best = max(best, x)
    return best
"""
