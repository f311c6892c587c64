//! The fuzz targets' corpora, and inputs that once broke something, through the very functions that the fuzzer calls; each
//! input also cut, flipped and doubled. The fuzzer itself is run by hand (`fuzz/`, see CONTRIBUTING.md).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

type Target = fn(&[u8]);

/// Every parser of bytes that somebody else chose.
const TARGETS: &[(&str, Target)] = &[
    ("arguments", postern_policy::fuzzing::arguments),
    ("certificate", postern_tunnel::fuzzing::certificate),
    ("client_hello", postern_egress::fuzzing::client_hello),
    ("control_frames", postern_net::fuzzing::control_frames),
    ("decode", postern_secret::fuzzing::decode),
    ("detect", postern_secret::fuzzing::detect),
    ("dns_question", postern_egress::fuzzing::dns_question),
    ("document", postern_policy::fuzzing::document),
    ("event_stream", postern_net::fuzzing::event_stream),
    ("first_bytes", postern_egress::fuzzing::first_bytes),
    ("frames", postern_exec::fuzzing::frames),
    ("grpc_messages", postern_egress::fuzzing::grpc_messages),
    ("host", postern_policy::fuzzing::host),
    ("html", postern_upstream::fuzzing::html),
    ("http_answer", postern_egress::fuzzing::http_answer),
    ("http_body", postern_egress::fuzzing::http_body),
    ("http_request", postern_egress::fuzzing::http_request),
    ("identity", postern_tunnel::fuzzing::identity),
    ("journal", postern_runner::fuzzing::journal),
    ("json_places", postern_policy::fuzzing::json_places),
    ("log_line", postern_audit::fuzzing::log_line),
    ("mcp_answer", postern_gateway::fuzzing::answer),
    ("mcp_events", postern_gateway::fuzzing::events),
    ("mcp_message", postern_gateway::fuzzing::message),
    ("pair_places", postern_policy::fuzzing::pair_places),
    ("path", postern_policy::fuzzing::path),
    ("path_places", postern_policy::fuzzing::path_places),
    ("refused_datagram", postern_egress::fuzzing::refused_datagram),
    ("scrub", postern_secret::fuzzing::scrub),
    ("sealed", postern_secret::fuzzing::sealed),
    ("shown_urls", postern_policy::fuzzing::shown_urls),
    ("skill_archive", postern_runner::fuzzing::skill_archive),
    ("strict_json", postern_gateway::fuzzing::strict_json),
    ("token_answer", postern_gateway::fuzzing::token_answer),
    ("tool_outcome", postern_tools::fuzzing::outcome),
    ("tool_request", postern_tools::fuzzing::request),
    ("trailers", postern_egress::fuzzing::trailers),
    ("tunnel_words", postern_tunnel::fuzzing::words),
    ("web_url", postern_policy::fuzzing::web_url),
    ("websocket", postern_egress::fuzzing::websocket),
];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The inputs of a target, by name.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directories = [fuzz().join("corpus").join(target), fuzz().join("regressions").join(target)];
    let files = directories.iter().flat_map(fs::read_dir).flatten();
    let mut inputs: Vec<_> = files.map(|file| file.expect("a directory that reads").path()).collect();
    inputs.sort();
    inputs.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file that reads"))).collect()
}

/// Names of the entries of a directory below `fuzz`, without their endings; none where there is no directory.
fn names(below: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(below)).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("a directory that reads").path());
    paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

/// Damage that depends on nothing but the input: the same on every machine.
fn damaged(input: &[u8], round: usize) -> Vec<u8> {
    let mut state = (input.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (round as u64 + 1) << 32;
    let mut below = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % (bound as u64 + 1)).expect("not more than the bound")
    };
    let mut text = input.to_vec();
    let at = below(text.len());
    match round % 4 {
        0 => text.truncate(at),
        1 => text.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(7)),
        2 => text = [input, &input[at..]].concat(),
        _ => text.insert(at, u8::try_from(below(255)).expect("a byte")),
    }
    text
}

#[test]
fn every_target_keeps_its_promises_over_its_corpus_and_what_is_near_it() {
    for (target, run) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for (path, input) in &inputs {
            // Said only where it fails: the input at fault is the last one named.
            println!("{}", path.display());
            run(input);
            for round in 0..DAMAGES {
                run(&damaged(input, round));
            }
        }
        run(&[]);
    }
}

/// Damage upon damage, and the beginning of one input before the end of another.
fn far_from(inputs: &[(PathBuf, Vec<u8>)], round: usize) -> Vec<u8> {
    let of = |number: usize| inputs[number % inputs.len()].1.as_slice();
    let (one, other) = (of(round), of(round / inputs.len() + round * 7));
    let spliced = [&one[..one.len() - one.len() * (round % 3) / 4], &other[other.len() * (round % 5) / 5..]].concat();
    let begun = if round.is_multiple_of(2) { spliced } else { one.to_vec() };
    (0..=round % STACKED).fold(begun, |text, more| damaged(&text, round.wrapping_mul(31) + more))
}

#[test]
fn every_target_keeps_its_promises_far_from_its_corpus_too() {
    for (target, run) in TARGETS {
        let inputs = inputs(target);
        for round in 0..ROUNDS {
            let input = far_from(&inputs, round);
            // Said only where it fails, as text that a regression can be made of.
            println!("{target} round {round}: {}", input.escape_ascii());
            run(&input);
        }
    }
}

#[test]
fn every_target_is_built_for_the_fuzzer_and_no_corpus_is_left_over() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    assert!(names("regressions").is_subset(&targets));
    let size: usize = targets.iter().flat_map(|target| inputs(target)).map(|(_, input)| input.len()).sum();
    assert!(size < CORPORA_BYTES, "{size} bytes of corpora: minimise them");
}

const DAMAGES: usize = 8;
const ROUNDS: usize = 400;
const STACKED: usize = 12;
const CORPORA_BYTES: usize = 1 << 20;
