//! `postern secrets`: puts values into the perimeter's encrypted store; nothing here ever shows one.

use std::io::{IsTerminal, Read, Write, stdin};

use postern_custody::store::{Removed, Store, StoreError};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::{Place, SecretsVerb};
use crate::config;
use crate::failure::{Failure, Or, chain};

/// A file that is piped in by mistake is named as one, and not read to its end.
const LONGEST_INPUT: u64 = 1 << 20;

/// Runs the verb.
///
/// # Errors
/// The value is refused, or the store cannot be used.
#[expect(clippy::print_stdout, reason = "names are the command's result")]
pub(crate) fn run(verb: &SecretsVerb) -> Result<(), Failure> {
    match verb {
        SecretsVerb::Set { name, danger_short, place } => {
            let store = store(place)?;
            store.set(name, value(name)?, *danger_short).map_err(refused)?;
            println!("{name} is stored; a zone refers to it as store:{name}");
        }
        SecretsVerb::List { place } => {
            for secret in store(place)?.list().or_misused("list the store")? {
                let short = if secret.danger_short { "  accepted although short or guessable" } else { "" };
                println!("{}{short}", secret.name);
            }
        }
        SecretsVerb::Rm { name, place } => match store(place)?.remove(name).or_misused("change the store")? {
            Removed::Gone => {
                println!("{name} is removed; no request uses it from now on, and running sessions still scrub it")
            }
            Removed::Absent => return Err(Failure::Misused(format!("there is no secret called {name}"))),
        },
    }
    Ok(())
}

/// The store that the configuration names.
pub(crate) fn store(place: &Place) -> Result<Store, Failure> {
    Store::open(&config::custody_of(place)?).or_misused("open the store")
}

fn refused(error: StoreError) -> Failure {
    Failure::Misused(chain("store the secret", &error))
}

/// From standard input, without its last line end; on a terminal from a prompt that shows nothing.
pub(crate) fn value(name: &str) -> Result<Vec<u8>, Failure> {
    if stdin().is_terminal() {
        let _hidden = Hidden::start(name)?;
        let mut line = String::new();
        stdin().read_line(&mut line).or_misused("read the value")?;
        return Ok(without_line_end(line.into_bytes()));
    }
    piped(stdin()).or_misused("read the value")
}

/// All that is piped in, and no more than a bound of it.
fn piped(input: impl Read) -> Result<Vec<u8>, NotRead> {
    let mut bytes = Vec::new();
    input.take(LONGEST_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_INPUT {
        return Err(NotRead::TooLong);
    }
    Ok(without_line_end(bytes))
}

fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    bytes
}

/// Why there is no value.
#[derive(Debug, thiserror::Error)]
enum NotRead {
    /// Hardly a secret: another file, or a program that does not end.
    #[error(
        "more than {} MiB came on standard input, which is no secret; pipe in the secret alone",
        LONGEST_INPUT >> 20
    )]
    TooLong,
    #[error("standard input")]
    Input(#[from] std::io::Error),
}

/// A terminal that does not echo, until dropped.
struct Hidden {
    before: rustix::termios::Termios,
}

impl Hidden {
    #[expect(clippy::print_stderr, reason = "a prompt for the person at the terminal; standard output is for results")]
    fn start(name: &str) -> Result<Self, Failure> {
        eprint!("value of {name} (not shown): ");
        std::io::stderr().flush().or_misused("write to the terminal")?;
        let before = tcgetattr(stdin()).or_misused("read the terminal's mode")?;
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        tcsetattr(stdin(), OptionalActions::Now, &silent).or_misused("stop the terminal's echo")?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    #[expect(clippy::print_stderr, reason = "ends the prompt's line")]
    fn drop(&mut self) {
        // A terminal that went away has no mode left to restore.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
        eprintln!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_is_piped_in_without_its_last_line_end() {
        for (input, value) in [("v", "v"), ("v\n", "v"), ("v\r\n", "v"), ("a\nb\n\n", "a\nb\n"), ("", "")] {
            assert_eq!(piped(input.as_bytes()).unwrap(), value.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn more_than_a_mebibyte_is_refused_for_that_and_not_read_to_its_end() {
        let largest = vec![b'x'; 1 << 20];
        assert_eq!(piped(&largest[..]).unwrap().len(), 1 << 20);
        let endless = vec![b'x'; 4 << 20];
        let mut unread = &endless[..];
        let refused = piped(&mut unread).unwrap_err();
        assert!(matches!(refused, NotRead::TooLong), "{refused}");
        assert_eq!(unread.len(), (3 << 20) - 1);
    }
}
