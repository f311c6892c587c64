use super::*;
use crate::list::entries;
use crate::seccomp::{Filter, NEVER};

const HERE: u32 = 7;
const KILLED: u32 = 0;

/// Allows 3 and 5, 9 when its first argument is 1, and 11 when its second has bit 4 and is over 20; all else answers 38; another architecture is killed.
fn program() -> BpfProgram {
    vec![
        step(LOAD, 0, 0, ARCHITECTURE_AT),
        step(IF_EQUAL, 1, 0, HERE),
        step(RETURN, 0, 0, KILLED),
        step(LOAD, 0, 0, NUMBER_AT),
        step(IF_EQUAL, 12, 0, 3),
        step(IF_EQUAL, 11, 0, 5),
        step(IF_EQUAL, 0, 3, 9),
        step(LOAD, 0, 0, 16),
        step(IF_EQUAL, 8, 0, 1),
        step(JUMP, 0, 0, 6),
        step(IF_EQUAL, 0, 5, 11),
        step(LOAD, 0, 0, 24),
        step(IF_GREATER, 0, 3, 20),
        step(MASK, 0, 0, 4),
        step(IF_EQUAL, 2, 0, 4),
        step(JUMP, 0, 0, 0),
        step(RETURN, 0, 0, 38),
        step(RETURN, 0, 0, 1000),
    ]
}

/// What the kernel would answer; `words` are those of `struct seccomp_data`.
fn run(program: &BpfProgram, words: &[u32; 16]) -> u32 {
    let (mut loaded, mut at) = (0, 0);
    loop {
        let it = &program[at];
        at += 1;
        let holds = match it.code {
            LOAD => {
                loaded = words[it.k as usize / 4];
                continue;
            }
            MASK => {
                loaded &= it.k;
                continue;
            }
            JUMP => {
                at += it.k as usize;
                continue;
            }
            RETURN => return it.k,
            IF_EQUAL => loaded == it.k,
            IF_GREATER => loaded > it.k,
            IF_AT_LEAST => loaded >= it.k,
            IF_BITS => loaded & it.k != 0,
            other => panic!("no step of ours: {other}"),
        };
        at += usize::from(if holds { it.jt } else { it.jf });
    }
}

/// Every number and architecture with arguments around whatever the program compares with, all alike and one by one.
fn expect_the_same(program: &BpfProgram, short: &BpfProgram, here: u32) {
    let mut values: Vec<u32> =
        program.iter().flat_map(|it| [it.k.wrapping_sub(1), it.k, it.k.wrapping_add(1)]).collect();
    values.extend([0, 1, u32::MAX, 0x8000_0000]);
    values.sort_unstable();
    values.dedup();
    for number in (0..NUMBERS + 8).chain([u32::MAX, 0x4000_0000, 0x4000_0003]) {
        for architecture in [here, here ^ 1, 0] {
            let call = |arguments: [u32; 12]| {
                let mut words = [number, architecture, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                words[4..].copy_from_slice(&arguments);
                assert_eq!(run(program, &words), run(short, &words), "{words:?}");
            };
            for value in &values {
                call([*value; 12]);
                for at in 0..3 {
                    let mut arguments = [0; 12];
                    arguments[2 * at] = *value;
                    call(arguments);
                }
            }
        }
    }
}

#[test]
fn every_call_has_the_programs_own_answer() {
    let short = through(&program(), HERE).unwrap();
    expect_the_same(&program(), &short, HERE);
}

#[test]
fn a_compiled_list_with_every_kind_of_condition_has_its_own_answers() {
    const LIST: &str = "allow read write openat -- r\nallow socket arg0=1 -- r\nallow clone arg0&0x7e020000=0 -- r\ndeny socket arg0!=1 arg1=3 -- r\ndeny ioctl arg1=0x5412 -- r\n";
    let compiled = |list: &str| Filter::compile_whole(entries(list).chain(entries(NEVER))).unwrap();
    let arch = seccompiler::TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let here = crate::seccomp::audit_number(arch);
    for program in compiled(LIST) {
        let short = through(&program, here).expect("every step is known");
        expect_the_same(&program, &short, here);
    }
}

#[test]
fn what_is_left_is_short() {
    let short = through(&program(), HERE).unwrap();
    assert!(short.len() < 50, "{} steps", short.len());
    let compared = |number| short.iter().any(|it| it.code == IF_EQUAL && it.k == number);
    assert!(!compared(3) && !compared(5) && compared(1), "what is left compares arguments alone");
}

#[test]
fn a_program_with_a_step_that_is_not_known_is_left_alone() {
    let mut program = program();
    program[7] = step(0x28, 0, 0, 16);
    assert!(through(&program, HERE).is_none());
}
