//! A shorter way through a filter. The compiler's program compares a call's number with every listed one in turn; the kernel translates all of it at each
//! installation, walks it for each number then, and programs walk it for each call that an argument decides. Here the program is worked out ahead for each
//! number: a search tree leads from a number to what is left of the program for it, which is an answer or comparisons of arguments. It decides nothing:
//! each way through it is the program's own.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{BpfProgram, sock_filter};

/// Numbers from here on are one case. No list has one.
const NUMBERS: u32 = 1024;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const MASK: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_BITS: u16 = 0x45;

/// Where `struct seccomp_data` has the call's number and the architecture.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// What is known of a word of a call before the program runs, or of what it has loaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Exactly(u32),
    AtLeast(u32),
    Not(u32),
    Nothing,
}

impl Known {
    /// Whether a condition holds; none when that is not known.
    fn holds(self, condition: &sock_filter) -> Option<bool> {
        let k = condition.k;
        match (self, condition.code) {
            (Self::Exactly(value), IF_EQUAL) => Some(value == k),
            (Self::Exactly(value), IF_GREATER) => Some(value > k),
            (Self::Exactly(value), IF_AT_LEAST) => Some(value >= k),
            (Self::Exactly(value), IF_BITS) => Some(value & k != 0),
            (Self::AtLeast(least), IF_EQUAL) if k < least => Some(false),
            (Self::AtLeast(least), IF_GREATER) if k < least => Some(true),
            (Self::AtLeast(least), IF_AT_LEAST) if k <= least => Some(true),
            (Self::Not(value), IF_EQUAL) if k == value => Some(false),
            _ => None,
        }
    }
}

/// A call, as far as it is known.
#[derive(Clone, Copy)]
struct Call {
    number: Known,
    architecture: Known,
}

/// A step of the program that cannot be worked out ahead, and what is loaded there.
type Place = (usize, Known);

/// What the program does, by way of a search tree; none when it has a step that is not known here.
pub(super) fn through(program: &BpfProgram, architecture: u32) -> Option<BpfProgram> {
    let here = |number| Call { number, architecture: Known::Exactly(architecture) };
    let elsewhere = Call { number: Known::Nothing, architecture: Known::Not(architecture) };
    let mut cases: Vec<(u32, BpfProgram)> = Vec::new();
    for number in 0..NUMBERS {
        add(&mut cases, number, rest(program, here(Known::Exactly(number)))?);
    }
    add(&mut cases, NUMBERS, rest(program, here(Known::AtLeast(NUMBERS)))?);
    let elsewhere = rest(program, elsewhere)?;
    let over = u32::try_from(elsewhere.len()).ok()?;
    let mut short = vec![step(LOAD, 0, 0, ARCHITECTURE_AT), step(IF_EQUAL, 0, 1, architecture), step(JUMP, 0, 0, over)];
    short.extend(elsewhere);
    short.push(step(LOAD, 0, 0, NUMBER_AT));
    lay_out(&mut short, &cases);
    Some(short)
}

/// One more number; one that is treated like the one before needs no case of its own.
fn add(cases: &mut Vec<(u32, BpfProgram)>, number: u32, rest: BpfProgram) {
    if cases.last().is_none_or(|(_, last)| *last != rest) {
        cases.push((number, rest));
    }
}

fn lay_out(tree: &mut BpfProgram, cases: &[(u32, BpfProgram)]) {
    match cases {
        [] => {}
        [(_, rest)] => tree.extend_from_slice(rest),
        _ => {
            let (left, right) = cases.split_at(cases.len() / 2);
            tree.push(step(IF_AT_LEAST, 0, 1, right[0].0));
            let over_left = tree.len();
            tree.push(step(JUMP, 0, 0, 0));
            lay_out(tree, left);
            tree[over_left].k = distance(over_left, tree.len());
            lay_out(tree, right);
        }
    }
}

/// What is left of the program for a call; none when it has a step that is not known here.
fn rest(program: &BpfProgram, call: Call) -> Option<BpfProgram> {
    let start = settle(program, call, (0, Known::Nothing))?;
    let mut places = BTreeSet::new();
    let mut pending = vec![start];
    while let Some(place) = pending.pop() {
        if places.insert(place) {
            pending.extend(following(program, call, place)?);
        }
    }
    // Every step goes forward, and so do places in their order: the start is the first of them.
    let mut written = Vec::new();
    let mut starts = BTreeMap::new();
    for (number, place) in places.iter().enumerate() {
        starts.insert(*place, written.len());
        let next = following(program, call, *place)?;
        let it = program[place.0].clone();
        match next.as_slice() {
            [yes, _] => written.extend([(sock_filter { jt: 0, jf: 1, ..it }, None), (step(JUMP, 0, 0, 0), Some(*yes))]),
            _ => written.push((it, None)),
        }
        let by_itself = places.iter().nth(number + 1);
        written
            .extend(next.last().filter(|next| Some(*next) != by_itself).map(|next| (step(JUMP, 0, 0, 0), Some(*next))));
    }
    let placed = written.into_iter().enumerate().map(|(at, (it, to))| match to {
        None => Some(it),
        Some(to) => Some(step(JUMP, 0, 0, distance(at, *starts.get(&to)?))),
    });
    placed.collect()
}

/// Where the program goes on from a place: nowhere, on, or where a condition holds and where it does not.
fn following(program: &BpfProgram, call: Call, (at, loaded): Place) -> Option<Vec<Place>> {
    let it = program.get(at)?;
    let settled = |at, loaded| settle(program, call, (at, loaded));
    Some(match it.code {
        RETURN => Vec::new(),
        LOAD => vec![settled(at + 1, known(call, it.k))?],
        MASK => vec![settled(at + 1, Known::Nothing)?],
        IF_EQUAL | IF_GREATER | IF_AT_LEAST | IF_BITS => {
            vec![settled(at + 1 + usize::from(it.jt), loaded)?, settled(at + 1 + usize::from(it.jf), loaded)?]
        }
        _ => return None,
    })
}

/// Goes on from a place as far as the way is known.
fn settle(program: &BpfProgram, call: Call, (mut at, mut loaded): Place) -> Option<Place> {
    loop {
        let it = program.get(at)?;
        match (it.code, loaded) {
            (LOAD, _) => match known(call, it.k) {
                exactly @ Known::Exactly(_) => loaded = exactly,
                _ => return Some((at, loaded)),
            },
            (MASK, Known::Exactly(value)) => loaded = Known::Exactly(value & it.k),
            (JUMP, _) => at += it.k as usize,
            (IF_EQUAL | IF_GREATER | IF_AT_LEAST | IF_BITS, _) => match loaded.holds(it) {
                Some(holds) => at += usize::from(if holds { it.jt } else { it.jf }),
                None => return Some((at, loaded)),
            },
            (RETURN | MASK, _) => return Some((at, Known::Nothing)),
            _ => return None,
        }
        at += 1;
    }
}

/// What is known of the word at a place in `struct seccomp_data`.
fn known(call: Call, at: u32) -> Known {
    match at {
        NUMBER_AT => call.number,
        ARCHITECTURE_AT => call.architecture,
        _ => Known::Nothing,
    }
}

fn distance(from: usize, to: usize) -> u32 {
    u32::try_from(to - from - 1).expect("a program has some thousand steps, and jumps go forward")
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests;
