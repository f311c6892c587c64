//! How many files our processes may have open: what the system lets us have, since the usual limit of a shell or service is meant for programs
//! that use `select(2)`, and would end our connections before our own bounds do.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than all our bounds together ask for.
const PLENTY: u64 = 65_536;
/// With fewer, connections can fail before our own bounds are reached.
const FEW: u64 = 4096;

/// Raises the limit for this process and those it starts. A sandbox has one of its own.
pub(crate) fn raise() {
    // Nothing is lost where the system does not let us: `warn_if_few` says so.
    setrlimit(Resource::Nofile, raised(getrlimit(Resource::Nofile))).ok();
}

fn raised(limit: Rlimit) -> Rlimit {
    let wanted = limit.maximum.map_or(PLENTY, |maximum| maximum.min(PLENTY));
    Rlimit { current: limit.current.map(|current| current.max(wanted)), maximum: limit.maximum }
}

/// Says so in the log where a process that serves others can have few files open.
pub(crate) fn warn_if_few() {
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < FEW) {
        tracing::warn!(
            limit,
            plenty = FEW,
            "few files can be open at a time, so connections may fail: raise the hard limit (`LimitNOFILE=` of a service, `ulimit -Hn` of a shell)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_as_the_system_lets_us_have_open_and_never_fewer_than_before() {
        let table = [
            ((Some(1024), Some(524_288)), Some(65_536)),
            ((Some(1024), Some(4096)), Some(4096)),
            ((Some(256), None), Some(65_536)),
            ((Some(100_000), Some(524_288)), Some(100_000)),
            ((None, None), None),
        ];
        for ((current, maximum), expected) in table {
            let limit = raised(Rlimit { current, maximum });
            assert_eq!((limit.current, limit.maximum), (expected, maximum), "{current:?} {maximum:?}");
        }
    }
}
