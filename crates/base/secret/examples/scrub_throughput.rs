//! Measures how fast clean bodies pass a scrubber: `cargo run --release -p postern-secret --example scrub_throughput`.
#![expect(clippy::print_stdout, reason = "its result is for a person")]

use std::time::Instant;

use postern_secret::scrub::{Plan, Scrubber};
use postern_secret::{Placeholder, Secret};

fn main() {
    for count in [1, 10, 1000] {
        let random = || Placeholder::issue(44, None).as_bytes()[4..].to_vec();
        let pairs: Vec<_> = (0..count).map(|_| (Secret::new(random()), Placeholder::issue(40, None))).collect();
        let plan = Plan::new(&pairs);
        for (name, body) in bodies() {
            let start = Instant::now();
            let mut scrubber = Scrubber::with(plan.clone());
            body.chunks(64 * 1024).for_each(|chunk| drop(scrubber.push(chunk)));
            let megabytes = body.len() as u128 / start.elapsed().as_micros().max(1);
            println!("{count} secrets, {name}: {megabytes} MB/s");
        }
    }
}

fn bodies() -> [(&'static str, Vec<u8>); 4] {
    let json = br#"{"id": 4711, "name": "Ledger entry", "url": "https://api.example/v1/items?page=2&x=%20", "tags": ["a", "b\n"]},"#;
    let html = br#"<p>It&#39;s a &quot;test&quot; &amp; more: &#x2F; and</p><a href="/x?y=%2Fz">link</a>"#;
    let binary: Vec<u8> =
        (0..9_000_000_u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).to_le_bytes()[0]).collect();
    let hex = binary.iter().take(6_000_000).flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
    [("json", json.repeat(100_000)), ("html", html.repeat(120_000)), ("binary", binary), ("hex", hex)]
}
