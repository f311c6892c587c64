//! `postern secrets`: puts values into the perimeter's encrypted store; nothing here ever shows one.

use std::io::{IsTerminal, Read, Write, stdin};

use postern_custody::store::{Removed, Store, StoreError};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::{Place, SecretsVerb};
use crate::config;
use crate::failure::{Failure, Or, chain};

const LONGEST_VALUE: u64 = 1 << 20;

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
    let _hidden = if stdin().is_terminal() { Some(Hidden::start(name)?) } else { None };
    let mut bytes = Vec::new();
    if stdin().is_terminal() {
        let mut line = String::new();
        stdin().read_line(&mut line).or_misused("read the value")?;
        bytes = line.into_bytes();
    } else {
        stdin().take(LONGEST_VALUE).read_to_end(&mut bytes).or_misused("read the value")?;
    }
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    Ok(bytes)
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
