//! A race at a file tool: the sandbox exchanges a directory for a link to another, as fast as it can, while the tool goes through it again and again.

use serde_json::json;

use crate::catalogue::Outcome;
use crate::evidence::of_tool;
use crate::run::bash;
use crate::stand::{Stand, call, text};

/// Uses a file tool on a path while the sandbox swaps what lies there; did it ever lead outside? One that met only one of the two shows nothing.
pub(crate) async fn run(stand: &mut Stand, id: &str, tool: &str, path: &str) -> Outcome {
    let input = match tool {
        "write" => json!({"file_path": path, "content": WRITTEN}),
        _ => json!({"file_path": path}),
    };
    let mut met = Met::default();
    for _ in 0..MOST {
        let told = call(&mut stand.attacker, id, tool, input.clone()).await;
        if text(&told).contains("root:") {
            met.outside = true;
        }
        match of_tool(tool, &told).to_string().as_str() {
            "outside" => met.link += 1,
            "made" => met.directory += 1,
            ended @ ("ended" | "timed out") => return Outcome::new(ended),
            _ => {}
        }
        met.calls += 1;
        if met.enough() {
            break;
        }
    }
    let there = bash(&mut stand.attacker, id, format!("touch {STOP}; cat {TARGET}/{}/raced", deep())).await;
    met.outside |= there.contains(WRITTEN);
    met.outcome()
}

/// Directories below the one that is exchanged: so many that it is exchanged while the tool still checks what lies below.
pub(crate) fn deep() -> String {
    ["d"; DEPTH].join("/")
}

/// What the calls of a race met.
#[derive(Default)]
struct Met {
    calls: usize,
    link: usize,
    directory: usize,
    outside: bool,
}

impl Met {
    fn enough(&self) -> bool {
        self.calls >= FEWEST && self.link >= EACH && self.directory >= EACH
    }

    fn outcome(&self) -> Outcome {
        Outcome::new(match (self.outside, self.enough()) {
            (true, _) => "made".to_owned(),
            (false, true) => "stayed".to_owned(),
            (false, false) => format!(
                "skip the race never met: of {} calls {} came upon the link and {} upon the directory",
                self.calls, self.link, self.directory
            ),
        })
    }
}

/// Tool uses of a race: enough that some meet each order of its steps, and more where one of the two is not met.
const FEWEST: usize = 150;
const MOST: usize = 1500;
/// So often each of the two is to be met.
const EACH: usize = 10;
/// Fewer than a sandbox may have within each other.
const DEPTH: usize = 240;
/// What is written; no part of a path.
const WRITTEN: &str = "written in a race";
/// Where a link of a race leads that is written through.
const TARGET: &str = "/tmp/target";
/// Whoever exchanges them ends when this is there.
const STOP: &str = "/workspace/.swapped-enough";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_that_met_one_side_alone_shows_nothing_and_one_that_led_outside_was_won() {
        let word = |link, directory, outside| Met { calls: 150, link, directory, outside }.outcome().to_string();
        assert_eq!(word(75, 75, false), "stayed");
        assert_eq!(word(75, 75, true), "made");
        assert_eq!(word(1, 0, true), "made");
        for (link, directory) in [(150, 0), (0, 150), (0, 0), (9, 141)] {
            assert!(word(link, directory, false).starts_with("skip the race never met"), "{link} {directory}");
        }
    }
}
