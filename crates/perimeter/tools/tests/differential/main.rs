//! The same calls against the official SDK's own tools and against ours, compared answer by answer.

#![expect(clippy::disallowed_methods, reason = "the reference and its ripgrep are programs of the test's own")]

mod fixtures;
mod scenarios;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postern_tools::wire::CALL_DEADLINE_MS;
use postern_tools::{CallTool, Configuration, Root, Toolbox};
use serde_json::{Value, json};

use scenarios::{Compare, Scenario};

const MAKE_VENV: &str = "python3 -m venv target/venv && target/venv/bin/pip install anthropic==2.12.0   (python3 >= 3.9 with venv: apt-get install python3-venv)";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().expect("the repository")
}

/// The answers of the reference, or a panic that says how to get one.
fn reference(request: &Value) -> Vec<Vec<Value>> {
    let python = repository().join("target/venv/bin/python");
    assert!(python.exists(), "no reference toolset: in the repository's root run\n  {MAKE_VENV}");
    let rg = Command::new("rg").arg("--version").stdout(Stdio::null()).status();
    assert!(rg.is_ok_and(|status| status.success()), "no ripgrep to compare with: apt-get install ripgrep");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/reference.py");
    let mut child = Command::new(&python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    child.stdin.take().expect("piped").write_all(request.to_string().as_bytes()).expect("the request is read");
    let output = child.wait_with_output().expect("python ends");
    assert!(
        output.status.success(),
        "the reference failed; is it anthropic 2.12.0? {MAKE_VENV}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("the reference prints JSON")
}

fn ours(scenario: &Scenario, workdir: &Path) -> Vec<Value> {
    let roots = roots(scenario, workdir);
    let mut toolbox = Toolbox::new(&Configuration { workdir: workdir.to_owned(), roots });
    let calls = scenario.calls(workdir);
    calls.into_iter().map(|(name, input)| call(&mut toolbox, &name, input)).collect()
}

fn call(toolbox: &mut Toolbox, name: &str, input: Value) -> Value {
    let Value::Object(input) = input else { panic!("an input is an object") };
    let outcome =
        toolbox.call(&CallTool { id: "1".to_owned(), name: name.to_owned(), input, deadline_ms: CALL_DEADLINE_MS });
    json!({"is_error": outcome.is_error, "content": outcome.content})
}

fn roots(scenario: &Scenario, workdir: &Path) -> Vec<Root> {
    let beside = workdir.parent().expect("the work directory has a parent");
    scenario.roots.iter().map(|(name, access)| Root { path: beside.join(name), access: *access }).collect()
}

/// Paths and nonces differ between the two runs, what is left of a long output depends on the reads, a parallel search has no order, and ripgrep's versions word their errors differently.
fn comparable(answer: &Value, directory: &Path, compare: Compare) -> String {
    let text = answer.to_string().replace(&directory.display().to_string(), "<dir>");
    match compare {
        Compare::Exactly => text,
        Compare::AsLines => {
            let content = answer["content"][0]["text"].as_str().unwrap_or_default();
            let mut lines: Vec<_> = content
                .lines()
                .filter(|line| !line.contains("_DONE__") && !line.starts_with("    "))
                .map(|line| {
                    line.replace(&directory.display().to_string(), "<dir>")
                        .replace("failed: rg: ", "failed: ")
                        .replace('\'', "")
                })
                .map(|line| {
                    if line.len() > 1_000 { format!("about {} thousand characters", line.len() / 1_000) } else { line }
                })
                .map(|line| if ENDED.contains(&line.as_str()) { ENDED[0].to_owned() } else { line })
                .collect();
            lines.sort();
            format!("{} {lines:?}", answer["is_error"])
        }
    }
}

/// What the reference says once its shell has ended by itself: whichever it notices first. Ours always says the first.
const ENDED: [&str; 3] = ["bash: bash session terminated; restart required", "BrokenResourceError()", "(no output)"];

#[test]
fn every_call_answers_as_the_official_tools_do() {
    let scenarios = scenarios::all();
    let theirs: Vec<_> = scenarios.iter().map(fixtures::Place::new).collect();
    let mine: Vec<_> = scenarios.iter().map(fixtures::Place::new).collect();
    let request: Vec<Value> = scenarios
        .iter()
        .zip(&theirs)
        .map(|(scenario, place)| {
            let calls: Vec<Value> = scenario
                .calls(&place.workdir)
                .into_iter()
                .map(|(name, input)| json!({"name": name, "input": input}))
                .collect();
            json!({"workdir": place.workdir, "roots": roots(scenario, &place.workdir), "calls": calls})
        })
        .collect();
    let expected = reference(&json!({"scenarios": request}));
    let mut differences = Vec::new();
    for (((scenario, their_place), my_place), expected) in scenarios.iter().zip(&theirs).zip(&mine).zip(expected) {
        let got = ours(scenario, &my_place.workdir);
        for (((name, input), expected), got) in scenario.calls(Path::new("<dir>/work")).iter().zip(&expected).zip(&got)
        {
            let theirs = comparable(expected, their_place.directory.path(), scenario.compare);
            let ours = comparable(got, my_place.directory.path(), scenario.compare);
            if theirs != ours {
                differences
                    .push(format!("{}: {name} {input}\n  theirs {theirs:.400}\n  ours   {ours:.400}", scenario.name));
            }
        }
        let (left, right) = (fixtures::tree(&their_place.workdir), fixtures::tree(&my_place.workdir));
        if left != right {
            differences.push(format!("{}: files differ\n  theirs {left:?}\n  ours   {right:?}", scenario.name));
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}
