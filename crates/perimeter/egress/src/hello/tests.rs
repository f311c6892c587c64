use super::*;

/// What rustls sends for a name.
fn real(name: &str, sni: bool) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut settings = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    settings.enable_sni = sni;
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(settings), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

fn named(name: &str) -> Heard {
    Heard::Hello(Hello { server_name: Some(name.to_owned()), hides_a_name: false })
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn sni(names: &[(u8, &str)]) -> (u16, Vec<u8>) {
    let list: Vec<u8> =
        names.iter().flat_map(|(kind, name)| [&[*kind], &vector16(name.as_bytes())[..]].concat()).collect();
    (SERVER_NAME, vector16(&list))
}

/// A hello with these extensions, in records of at most `size` bytes.
fn made(extensions: &[(u16, Vec<u8>)], after: &[u8], size: usize) -> Vec<u8> {
    let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let list: Vec<u8> =
        extensions.iter().flat_map(|(kind, content)| [&kind.to_be_bytes(), &vector16(content)[..]].concat()).collect();
    body.extend(vector16(&list));
    body.extend_from_slice(after);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[CLIENT_HELLO], &length[1..], &body].concat();
    message.chunks(size).flat_map(|chunk| [&[HANDSHAKE, 3, 1][..], &vector16(chunk)].concat()).collect()
}

#[test]
fn the_name_of_a_real_hello_is_read_at_its_last_byte_and_not_before() {
    let bytes = real("files.pinned.example", true);
    for length in 0..bytes.len() {
        assert_eq!(hear(&bytes[..length]), Heard::More, "{length}");
    }
    assert_eq!(hear(&bytes), named("files.pinned.example"));
    assert_eq!(
        hear(&real("files.pinned.example", false)),
        Heard::Hello(Hello { server_name: None, hides_a_name: false })
    );
}

#[test]
fn a_hello_in_pieces_is_put_together_and_one_with_two_readings_is_none() {
    let one = [sni(&[(0, "a.example")])];
    for size in [1, 5, 40, 16_384] {
        assert_eq!(hear(&made(&one, b"", size)), named("a.example"), "{size}");
    }
    let whole = made(&one, b"", 16_384);
    let malformed: [Vec<u8>; 10] = [
        made(&[one[0].clone(), sni(&[(0, "b.example")])], b"", 16_384),
        made(&[sni(&[(0, "a.example"), (0, "b.example")])], b"", 16_384),
        made(&[sni(&[(1, "a.example")])], b"", 16_384),
        made(&[(SERVER_NAME, vec![0, 5, 0, 0, 9, b'a'])], b"", 16_384),
        made(&one, b"x", 16_384),
        // A second message behind the hello in its record.
        [&[HANDSHAKE, 3, 1][..], &vector16(&[&whole[5..], &[1, 0, 0, 0]].concat())].concat(),
        [&[HANDSHAKE, 3, 1, 0, 0][..], &whole].concat(),
        [&[23, 3, 1][..], &whole[3..]].concat(),
        [&[HANDSHAKE, 3, 1, 0, 4, 2, 0, 0, 0][..]].concat(),
        [&[HANDSHAKE, 3, 1, 0, 4, CLIENT_HELLO, 0xff, 0xff, 0xff][..]].concat(),
    ];
    for bytes in malformed {
        assert_eq!(hear(&bytes), Heard::Malformed, "{bytes:?}");
    }
}

#[test]
fn a_hidden_name_is_noticed() {
    for kind in [ENCRYPTED_HELLO, ENCRYPTED_NAME] {
        let bytes = made(&[sni(&[(0, "a.example")]), (kind, vec![1, 2, 3])], b"", 16_384);
        assert_eq!(hear(&bytes), Heard::Hello(Hello { server_name: Some("a.example".to_owned()), hides_a_name: true }));
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), at in 0_usize..120) {
        let _ = hear(&bytes);
        let mut damaged = made(&[sni(&[(0, "a.example")])], b"", 30);
        let at = at.min(damaged.len());
        damaged.splice(at..at, bytes);
        let _ = hear(&damaged);
    }
}
