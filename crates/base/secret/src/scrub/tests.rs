//! Random secrets, written in random mixtures of forms, cut at random borders: nothing of them may come out.

#![allow(clippy::disallowed_methods, reason = "tests know the secrets they make")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::{Secret, renderings};

fn pair(secret: &[u8]) -> (SecretBytes, Placeholder) {
    (Secret::new(secret.to_vec()), Placeholder::issue(secret.len(), None))
}

fn scrub_in_chunks(plan: &Arc<Plan>, text: &[u8], borders: &[usize]) -> (Vec<u8>, u64) {
    let mut scrubber = Scrubber::with(Arc::clone(plan));
    let (mut output, mut rest) = (Vec::new(), text);
    for size in borders.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at((*size).min(rest.len()));
        output.extend(scrubber.push(chunk));
        rest = after;
    }
    output.extend(scrubber.finish());
    assert_eq!(scrubber.held(), 0);
    (output, scrubber.replaced())
}

/// One character of a secret, in the form that `choice` picks.
fn written(byte: u8, choice: u8) -> Vec<u8> {
    let name = symbols::HTML_NAMES.iter().find(|(_, meaning)| *meaning == byte);
    let short = symbols::JSON_SHORT.iter().find(|(_, meaning)| *meaning == byte);
    match (choice % 12, name, short) {
        (0, ..) => format!("%{byte:02x}").into_bytes(),
        (1, ..) => format!("%{byte:02X}").into_bytes(),
        (2, ..) => format!("\\u{byte:04x}").into_bytes(),
        (3, ..) => format!("\\u{byte:04X}").into_bytes(),
        (4, ..) => format!("&#{byte};").into_bytes(),
        (5, ..) => format!("&#x{byte:x};").into_bytes(),
        (6, ..) => format!("&#X{byte:04X};").into_bytes(),
        (7, Some((name, _)), _) => format!("&{name};").into_bytes(),
        (8, _, Some((letter, _))) => vec![b'\\', *letter],
        _ => vec![byte],
    }
}

fn secrets() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(prop_oneof![b'a'..=b'z', b'A'..=b'Z', b'0'..=b'9', Just(b'-'), Just(b'_')], 16..48),
        proptest::collection::vec(0x20u8..0x7f, 16..40),
        proptest::collection::vec(any::<u8>(), 16..40),
        // Few letters make false starts and overlaps likely.
        proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'2'), Just(b'5'), Just(b'&'), Just(b'\\')], 16..24),
    ]
}

/// Text around a secret. It ends and begins with characters that extend no escape.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~]{0,60}[ .,;]".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..60).prop_map(|mut bytes| {
            bytes.push(b'.');
            bytes
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_mixture_of_escapes_is_replaced_and_the_rest_unchanged(
        secret in secrets(), choices in proptest::collection::vec(any::<u8>(), 48),
        before in noise(), after in noise(), borders in proptest::collection::vec(1usize..40, 1..8),
    ) {
        let pair = pair(&secret);
        let plan = Plan::new(std::slice::from_ref(&pair));
        let rendering: Vec<u8> = secret.iter().zip(&choices).flat_map(|(byte, choice)| written(*byte, *choice)).collect();
        let text = [before.as_slice(), b".", &rendering, b".", &after].concat();
        let (output, replaced) = scrub_in_chunks(&plan, &text, &borders);
        prop_assert_eq!(output.len(), text.len());
        prop_assert_eq!(replaced, 1);
        prop_assert!(!Matcher::new([secret.as_slice()]).is_in(&output));
        prop_assert_eq!(&output[..=before.len()], &text[..=before.len()]);
        prop_assert_eq!(&output[text.len() - after.len() - 1..], &text[text.len() - after.len() - 1..]);
    }

    #[test]
    fn every_rendering_of_the_list_is_replaced_and_the_rest_unchanged(
        secret in secrets(), before in noise(), after in noise(), borders in proptest::collection::vec(1usize..40, 1..8),
    ) {
        let pair = pair(&secret);
        let plan = Plan::new(std::slice::from_ref(&pair));
        let matcher = Matcher::new([secret.as_slice()]);
        for rendering in renderings::of(&secret) {
            let text = [before.as_slice(), b".", &rendering.bytes, b".", &after].concat();
            let (output, replaced) = scrub_in_chunks(&plan, &text, &borders);
            prop_assert_eq!(output.len(), text.len());
            prop_assert_eq!(replaced, 1, "{:?}", rendering.kind);
            prop_assert!(!matcher.is_in(&output), "{:?}", rendering.kind);
            prop_assert_eq!(&output[..=before.len()], &text[..=before.len()]);
            prop_assert_eq!(&output[text.len() - after.len() - 1..], &text[text.len() - after.len() - 1..]);
        }
    }

    #[test]
    fn text_without_secrets_passes_unchanged(text in proptest::collection::vec(any::<u8>(), 0..400),
        borders in proptest::collection::vec(1usize..40, 1..8),
    ) {
        let plan = Plan::new(&[pair(b"correct-horse-battery"), pair(b"%41%42\\u0043&#68;\"quoted\"")]);
        let (output, replaced) = scrub_in_chunks(&plan, &text, &borders);
        prop_assert_eq!(output, text);
        prop_assert_eq!(replaced, 0);
    }

    #[test]
    fn base64_of_any_surroundings_decodes_to_the_placeholder_in_their_midst(
        before in proptest::collection::vec(any::<u8>(), 0..20), after in proptest::collection::vec(any::<u8>(), 0..20),
        secret in "[a-zA-Z0-9_-]{16,40}", width in prop_oneof![Just(usize::MAX), 4usize..76],
        borders in proptest::collection::vec(1usize..40, 1..8),
    ) {
        let pair = pair(secret.as_bytes());
        let plan = Plan::new(std::slice::from_ref(&pair));
        let whole = [before.as_slice(), secret.as_bytes(), &after].concat();
        let lines: Vec<Vec<u8>> = STANDARD.encode(whole).into_bytes().chunks(width).map(<[u8]>::to_vec).collect();
        let (output, replaced) = scrub_in_chunks(&plan, &lines.join(&b"\r\n"[..]), &borders);
        prop_assert_eq!(replaced, 1);
        let joined: Vec<u8> = output.into_iter().filter(|byte| !b"\r\n".contains(byte)).collect();
        let decoded = STANDARD.decode(joined).unwrap();
        prop_assert_eq!(decoded, [before.as_slice(), pair.1.as_bytes(), &after].concat());
    }
}

#[test]
fn replacements_keep_the_form_they_replace() {
    let (secret, placeholder) = (b"sk-live-\"quote\"/0".as_slice(), "pstnABCDEFGHIJKLM");
    let plan = Plan::new(&[(Secret::new(secret.to_vec()), Placeholder::from_issued(placeholder.to_owned()))]);
    let table: [(&str, &str); 8] = [
        (r#"sk-live-"quote"/0"#, "pstnABCDEFGHIJKLM"),
        ("%73k%2Dlive%2d%22quote%22%2f0", "%70s%74nABC%44%45FGHIJ%4B%4cM"),
        (r"\u0073k-live-\u0022quote\u0022/0", r"\u0070stnABCD\u0045FGHIJ\u004BLM"),
        ("&#115;k-live-&quot;quote&quot;/0", "&#112;stnABCD&#069;FGHIJ&#075;LM"),
        ("&#x73;k-live-&#34;quote&#34;&#x2F;0", "&#x70;stnABCD&#69;FGHIJ&#75;&#x4c;M"),
        (r#"sk-live-\"quote\"\/0"#, "pstnABCDE0FGHIJK0L0M"),
        ("736b2d6c6976652d2271756f7465222f30", "7073746e4142434445464748494a4b4c4d"),
        ("736B2D6C6976652D2271756F7465222F30", "7073746E4142434445464748494A4B4C4D"),
    ];
    for (reflected, expected) in table {
        let (output, replaced) = plan.scrub(reflected.as_bytes());
        let output = String::from_utf8(output).unwrap();
        assert_eq!((output.as_str(), replaced), (expected, 1), "{reflected}");
        assert_eq!(output.len(), reflected.len(), "{reflected}");
    }
}

#[test]
fn basic_credentials_come_back_with_the_placeholder_as_password() {
    let pair = pair(b"correct-horse-battery");
    let plan = Plan::new(std::slice::from_ref(&pair));
    for user in ["", "u", "us", "usr", "a longer user"] {
        let reflected = format!("Basic {}", STANDARD.encode(format!("{user}:correct-horse-battery")));
        let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{}", pair.1)));
        assert_eq!(String::from_utf8(plan.scrub(reflected.as_bytes()).0).unwrap(), expected, "{user:?}");
    }
}

#[test]
fn of_two_secrets_that_begin_alike_the_longer_is_replaced_whole() {
    let pairs = [pair(b"shared-prefix-0001"), pair(b"shared-prefix-0001-and-more")];
    let plan = Plan::new(&pairs);
    let text = b"[shared-prefix-0001-and-more][shared-prefix-0001-and-les]";
    for size in 1..text.len() {
        let (output, replaced) = scrub_in_chunks(&plan, text, &[size]);
        let expected = format!("[{}][{}-and-les]", pairs[1].1, pairs[0].1);
        assert_eq!((String::from_utf8(output).unwrap(), replaced), (expected, 2), "chunks of {size}");
    }
}

#[test]
fn events_of_a_stream_are_not_held_back() {
    let mut scrubber = Scrubber::new(&[pair(b"sk-live-0123456789abcdef")]);
    for event in [&b"data: {\"text\":\"ask\"}\n\n"[..], b": ping\n\n", b"data: done\r\n\r\n"] {
        assert_eq!(scrubber.push(event), event);
    }
}

#[test]
fn what_is_held_is_replaced_however_long_the_next_chunk_is() {
    let secret: Vec<u8> = (0..120u8).map(|byte| b'a' + byte % 23).collect();
    let pair = pair(&secret);
    let plan = Plan::new(std::slice::from_ref(&pair));
    let escaped: Vec<u8> = secret.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()).collect();
    let (quiet, noisy) = (b". ".repeat(700), secret[..40].repeat(30));
    for rendering in [&secret, &escaped] {
        let text = [&quiet, rendering.as_slice(), &quiet, &noisy, rendering, &noisy].concat();
        let (wanted, replaced) = plan.scrub(&text);
        assert_eq!(replaced, 2);
        for border in [1, 2, 50, 119, 255, 256, 257, 359] {
            let borders = [quiet.len() + border, text.len()];
            assert_eq!(scrub_in_chunks(&plan, &text, &borders), (wanted.clone(), 2), "{border}");
        }
    }
}

#[test]
fn a_text_of_nothing_but_beginnings_passes_and_a_secret_in_it_does_not() {
    let secret: Vec<u8> = (0..40u8).map(|byte| b'a' + byte % 23).collect();
    let pair = pair(&secret);
    let plan = Plan::new(std::slice::from_ref(&pair));
    // A zero begins UTF-16.
    for beginning in [&b"\0"[..], &secret[..20]] {
        let beginnings = beginning.repeat(3000 / beginning.len());
        let text = [&beginnings, secret.as_slice(), &beginnings].concat();
        let (wanted, replaced) = plan.scrub(&text);
        assert_eq!(replaced, 1);
        for size in [1, 255, 256, 257, 300, 700, 1000, 2999] {
            assert_eq!(scrub_in_chunks(&plan, &text, &[size]), (wanted.clone(), 1), "chunks of {size}");
        }
    }
}

proptest! {
    #[test]
    fn nothing_begins_before_where_a_sieve_says_it_may(
        one in secrets(), other in secrets(), choices in proptest::collection::vec(any::<u8>(), 48),
        before in noise(), after in noise(), which in any::<bool>(),
    ) {
        let plans = [&one, &other].map(|secret| Plan::new(std::slice::from_ref(&pair(secret))));
        let secret = if which { &one } else { &other };
        let written: Vec<u8> = secret.iter().zip(&choices).flat_map(|(byte, choice)| written(*byte, *choice)).collect();
        let text = [before, written, after].concat();
        let clear = Sieve::of(&plans[0], &plans[1]).clear(&text);
        let first = plans.iter().map(|plan| Scrubber::with(Arc::clone(plan)).clear(&text)).min();
        prop_assert_eq!(Some(clear), first, "what neither holds back passes");
        for plan in &plans {
            let mut scrubber = Scrubber::with(Arc::clone(plan));
            prop_assert_eq!(scrubber.push(&text[..clear]).len() + scrubber.held(), clear);
            let whole = plan.matcher.find_all(&text);
            prop_assert!(whole.iter().all(|hit| hit.range.start >= clear));
        }
    }

    #[test]
    fn what_is_clear_passes_and_the_rest_is_scrubbed_as_all_of_it_would_be(
        secret in secrets(), choices in proptest::collection::vec(any::<u8>(), 48),
        before in noise(), after in noise(), border in any::<prop::sample::Index>(),
    ) {
        let plan = Plan::new(std::slice::from_ref(&pair(&secret)));
        let written: Vec<u8> = secret.iter().zip(&choices).flat_map(|(byte, choice)| written(*byte, *choice)).collect();
        let text = [before, written, after].concat();
        let (mut each, mut whole, mut passed) = (Scrubber::with(plan.clone()), Scrubber::with(plan), Vec::new());
        let (one, other) = text.split_at(border.index(text.len()));
        for chunk in [one, other] {
            let (clear, rest) = chunk.split_at(each.clear(chunk));
            passed.extend_from_slice(clear);
            passed.extend(each.push(rest));
        }
        passed.extend(each.finish());
        let wanted = [whole.push(&text), whole.finish()].concat();
        prop_assert_eq!((passed, each.replaced()), (wanted, whole.replaced()));
    }
}
