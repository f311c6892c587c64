//! A system call filter, compiled from reviewed lists. Never decides anything itself: the lists do.
//!
//! One line of a list: `ACTION NAME... [CONDITION...] -- REASON`. `allow`: the call is made. `deny`: it is answered with EPERM; wins over allow. What is
//! not listed is answered with ENOSYS, so that a C library newer than a list falls back to an older call; clone3 stands in no line for that reason.
//! A condition is `argN=VALUE`, `argN!=VALUE` or `argN&MASK=VALUE` on the low 32 bits; several on one line must all hold. `NAME@ARCH` holds on that
//! architecture alone.
//!
//! Two programs: an allow-list that answers ENOSYS to the rest, then a deny-list that answers EPERM. Both run on every call and the later installed
//! one's error wins, so a dangerous call says EPERM while clone3 says ENOSYS and the C library falls back to clone.

mod shortcut;

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, TargetArch, sock_filter};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::list::{Entry, entries};

/// What no process of ours and no sandbox needs: a part of every filter.
pub const NEVER: &str = include_str!("../data/never.list");

/// A compiled filter. It travels to another process of ours as the kernel's instructions.
#[derive(Clone)]
pub struct Filter {
    /// In the order of installation.
    programs: Vec<BpfProgram>,
}

/// A list that does not compile.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no compiler for it.
    #[error("this processor architecture is not supported")]
    Architecture,
    /// No comparison of an argument.
    #[error("the condition {0} cannot be read")]
    Condition(String),
    /// Neither allow nor deny.
    #[error("the action {0} is not known")]
    Action(String),
    /// The compiler's own, such as an unknown call.
    #[error("compile the filter: {0}")]
    Compile(String),
}

impl Filter {
    /// Compiles lists, taken together, for this machine.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn compile(lists: &[&str]) -> Result<Self, FilterError> {
        Self::of(lists.iter().copied().flat_map(entries))
    }

    /// As [`Filter::compile`], of single entries.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn of<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Result<Self, FilterError> {
        let number = audit_number(architecture()?);
        let shortened = |program: BpfProgram| shortcut::through(&program, number).unwrap_or(program);
        Ok(Self { programs: Self::compile_whole(entries)?.into_iter().map(shortened).collect() })
    }

    /// The compiler's own programs, in the order of installation.
    fn compile_whole<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Result<Vec<BpfProgram>, FilterError> {
        let arch = architecture()?;
        let mut rules: BTreeMap<&str, Vec<Value>> = BTreeMap::from([("allow", Vec::new()), ("deny", Vec::new())]);
        for entry in entries {
            let action = entry.words[0];
            rules.get_mut(action).ok_or_else(|| FilterError::Action(action.to_owned()))?.extend(entry_rules(&entry)?);
        }
        let programs = [
            json!({"filter": {"mismatch_action": {"errno": libc::ENOSYS}, "match_action": "allow", "filter": rules["allow"]}}),
            json!({"filter": {"mismatch_action": "allow", "match_action": {"errno": libc::EPERM}, "filter": rules["deny"]}}),
        ];
        programs.iter().map(|program| compile(program, arch)).collect()
    }

    /// Installs the filter on this thread, for good. Sets no-new-privileges.
    ///
    /// # Errors
    /// The system's, where the kernel takes no filter.
    pub fn install(&self) -> Result<(), seccompiler::Error> {
        self.programs.iter().try_for_each(|program| seccompiler::apply_filter(program))
    }
}

/// `code`, `jt`, `jf`, `k` of a `struct sock_filter`.
type Instruction = (u16, u8, u8, u32);

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let instruction = |one: &sock_filter| (one.code, one.jt, one.jf, one.k);
        let programs = self.programs.iter().map(|program| program.iter().map(instruction).collect());
        programs.collect::<Vec<Vec<Instruction>>>().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let instruction = |(code, jt, jf, k): Instruction| sock_filter { code, jt, jf, k };
        let programs = Vec::<Vec<Instruction>>::deserialize(deserializer)?;
        Ok(Self {
            programs: programs.into_iter().map(|program| program.into_iter().map(instruction).collect()).collect(),
        })
    }
}

fn compile(program: &Value, arch: TargetArch) -> Result<BpfProgram, FilterError> {
    let mut compiled = seccompiler::compile_from_json(program.to_string().as_bytes(), arch)
        .map_err(|error| FilterError::Compile(error.to_string()))?;
    compiled.remove("filter").ok_or_else(|| FilterError::Compile("the compiler returned no program".into()))
}

fn architecture() -> Result<TargetArch, FilterError> {
    TargetArch::try_from(std::env::consts::ARCH).map_err(|_| FilterError::Architecture)
}

/// `AUDIT_ARCH_*`, by which a filter knows the architecture of a call. A wrong one would make the filter long and nothing else.
fn audit_number(arch: TargetArch) -> u32 {
    match arch {
        TargetArch::x86_64 => 0xC000_003E,
        TargetArch::aarch64 => 0xC000_00B7,
        TargetArch::riscv64 => 0xC000_00F3,
    }
}

/// The rules of one line: each of its calls that this architecture has, under the line's conditions.
fn entry_rules(entry: &Entry<'_>) -> Result<Vec<Value>, FilterError> {
    let (conditions, names): (Vec<&str>, Vec<&str>) = entry.words[1..].iter().partition(|word| word.contains('='));
    let conditions = conditions.into_iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let here = names.into_iter().filter_map(|name| match name.split_once('@') {
        Some((name, arch)) => (arch == std::env::consts::ARCH).then_some(name),
        None => Some(name),
    });
    Ok(here
        .map(|name| {
            if conditions.is_empty() { json!({"syscall": name}) } else { json!({"syscall": name, "args": conditions}) }
        })
        .collect())
}

/// `argN=V`, `argN!=V` or `argN&M=V`.
fn condition(text: &str) -> Result<Value, FilterError> {
    let unreadable = || FilterError::Condition(text.to_owned());
    let (left, value) = text.split_once('=').ok_or_else(unreadable)?;
    let (left, operator) = match (left.strip_suffix('!'), left.split_once('&')) {
        (Some(left), _) => (left, json!("ne")),
        (None, Some((left, mask))) => (left, json!({"masked_eq": number(mask).ok_or_else(unreadable)?})),
        (None, None) => (left, json!("eq")),
    };
    let index: u8 = left.strip_prefix("arg").and_then(|index| index.parse().ok()).ok_or_else(unreadable)?;
    Ok(json!({"index": index, "type": "dword", "op": operator, "val": number(value).ok_or_else(unreadable)?}))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_travelled_is_the_same_instructions() {
        let filter = Filter::compile(&["allow read -- r\ndeny socket arg0!=1 -- r"]).unwrap();
        let text = serde_json::to_string(&filter).unwrap();
        let arrived: Filter = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&arrived).unwrap(), text);
        assert!(arrived.programs.len() == 2 && arrived.programs[1].len() == filter.programs[1].len());
    }

    #[test]
    fn a_list_compiles_to_two_programs_that_the_kernel_would_take() {
        let filter = Filter::compile(&["allow read write -- x", NEVER]).expect("compiles");
        assert_eq!(filter.programs.len(), 2);
        assert!(filter.programs.iter().all(|program| !program.is_empty() && program.len() < 4096));
    }

    #[test]
    fn a_list_with_an_unknown_call_action_or_condition_is_refused() {
        for list in [
            "allow no_such_call -- x",
            "permit read -- x",
            "deny read arg0~1=2 -- x",
            "deny read argX=2 -- x",
            "deny read arg0=0xzz -- x",
        ] {
            assert!(Filter::compile(&[list]).is_err(), "{list}");
        }
    }
}
