//! A shorter way through a filter. The compiler's program compares a call's number with every listed one in turn; the kernel walks it for each number
//! when the filter is installed, and programs walk it for each refused call. A search tree in front answers at once where the program's answer depends
//! on nothing but the number. It decides nothing: each of its answers is the program's own, and everything else is handed to the program as before.

use seccompiler::{BpfProgram, sock_filter};

/// Numbers from here on are left to the program.
const NUMBERS: u32 = 1024;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_BITS: u16 = 0x45;

/// Where `struct seccomp_data` has the call's number and the architecture.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// What a program answers to a number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Returns(u32),
    /// It looks at arguments, or does what is not followed here.
    Depends,
}

/// The program with the tree in front.
pub(super) fn before(program: &BpfProgram, architecture: u32) -> BpfProgram {
    let mut runs: Vec<(u32, Answer)> = Vec::new();
    for number in 0..NUMBERS {
        let answer = answer(program, number, architecture);
        if runs.last().is_none_or(|(_, last)| *last != answer) {
            runs.push((number, answer));
        }
    }
    runs.push((NUMBERS, Answer::Depends));
    // Jumps to the program are by distance, so the tree is laid out behind its own end: see `patch`.
    let mut tree = vec![
        step(LOAD, 0, 0, ARCHITECTURE_AT),
        step(IF_EQUAL, 1, 0, architecture),
        to_program(),
        step(LOAD, 0, 0, NUMBER_AT),
    ];
    lay_out(&mut tree, &runs);
    patch(&mut tree);
    tree.extend_from_slice(program);
    tree
}

fn lay_out(tree: &mut BpfProgram, runs: &[(u32, Answer)]) {
    match runs {
        [] => {}
        [(_, Answer::Returns(value))] => tree.push(step(RETURN, 0, 0, *value)),
        [(_, Answer::Depends)] => tree.push(to_program()),
        _ => {
            let (left, right) = runs.split_at(runs.len() / 2);
            tree.push(step(IF_AT_LEAST, 0, 1, right[0].0));
            let over_left = tree.len();
            tree.push(step(JUMP, 0, 0, 0));
            lay_out(tree, left);
            tree[over_left].k = distance(over_left, tree.len());
            lay_out(tree, right);
        }
    }
}

/// A jump to the program, as long as nobody knows how far that is.
fn to_program() -> sock_filter {
    step(JUMP, 0, 0, u32::MAX)
}

fn patch(tree: &mut BpfProgram) {
    let end = tree.len();
    for (at, step) in tree.iter_mut().enumerate() {
        if step.code == JUMP && step.k == u32::MAX {
            step.k = distance(at, end);
        }
    }
}

fn distance(from: usize, to: usize) -> u32 {
    u32::try_from(to - from - 1).expect("a program has some thousand steps")
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn answer(program: &BpfProgram, number: u32, architecture: u32) -> Answer {
    let mut loaded = 0;
    let mut at = 0;
    // Every step of a filter goes forward.
    while let Some(step) = program.get(at) {
        at += 1;
        let holds = match step.code {
            LOAD if step.k == NUMBER_AT => {
                loaded = number;
                continue;
            }
            LOAD if step.k == ARCHITECTURE_AT => {
                loaded = architecture;
                continue;
            }
            RETURN => return Answer::Returns(step.k),
            JUMP => {
                at += step.k as usize;
                continue;
            }
            IF_EQUAL => loaded == step.k,
            IF_GREATER => loaded > step.k,
            IF_AT_LEAST => loaded >= step.k,
            IF_BITS => loaded & step.k != 0,
            _ => return Answer::Depends,
        };
        at += usize::from(if holds { step.jt } else { step.jf });
    }
    Answer::Depends
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: u32 = 7;

    /// Allows 3 and 5, and 9 when its first argument is 1; all else answers 38; another architecture is killed.
    fn program() -> BpfProgram {
        vec![
            step(LOAD, 0, 0, ARCHITECTURE_AT),
            step(IF_EQUAL, 1, 0, HERE),
            step(RETURN, 0, 0, 0),
            step(LOAD, 0, 0, NUMBER_AT),
            step(IF_EQUAL, 5, 0, 3),
            step(IF_EQUAL, 4, 0, 5),
            step(IF_EQUAL, 0, 2, 9),
            step(LOAD, 0, 0, 16),
            step(IF_EQUAL, 1, 0, 1),
            step(RETURN, 0, 0, 38),
            step(RETURN, 0, 0, 1000),
        ]
    }

    #[test]
    fn every_number_has_the_programs_own_answer() {
        let (program, short) = (program(), before(&program(), HERE));
        for number in (0..2 * NUMBERS).chain([u32::MAX, 0x4000_0003]) {
            for architecture in [HERE, 8] {
                let (wanted, found) = (answer(&program, number, architecture), answer(&short, number, architecture));
                assert!(wanted == found, "number {number}, architecture {architecture}");
            }
        }
    }

    #[test]
    fn the_way_to_an_answer_is_short() {
        let short = before(&program(), HERE);
        let tree = &short[..short.len() - program().len()];
        assert!(tree.iter().filter(|step| step.code == RETURN).count() >= 5, "3, 5, what lies between and around");
        assert!(tree.iter().all(|step| step.code != LOAD || step.k <= ARCHITECTURE_AT), "it looks at no argument");
    }
}
