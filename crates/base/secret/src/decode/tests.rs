//! Bodies as other programs encode them, whole and byte by byte; damage, cuts and bombs.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;

const CEILING: u64 = 64 * 1024 * 1024;
/// `TEXT`, as Node's zlib and as the zstd program encode it.
const BROTLI: &str = "1bf5002044ddd62d69a14c549b251bcae143c3315cd880138078b1c5667c011a267280695ff8b2af10f2a37c614e59300f0a83ad8f097b8e38fde564eed5320a";
const ZSTD: &str = "28b52ffd0468fd010062030c11a0ed90ba09dc9684be6af90ac7f7b30606401c18f7efadaaad9a4246b8e49d21bed361e07d2b54ec98f6973aeb190a0300a12a50a8f203d14c4101c4c61f50";
/// 64 MiB of zeros, as Node's zlib encodes them.
const BROTLI_BOMB: &str = "cbffff3ff82700e2b14020f7fe8fffff7ff04f00c4611180eefd1fffffffe09f0088c30200ddfb3ffeffffc13f0110870500baf77ffcffff837f02200e0b0074effff8ffff07ff04401c1600e8defff1ffff0ffe0980382c00d0bdffcbffff3ffc1300715800a07bff07";

fn text() -> Vec<u8> {
    b"The ledger holds real-secret-value-0123 and repeats: ledger ledger ledger ledger.\n".repeat(3)
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn raw(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

fn samples() -> Vec<(&'static str, Encoding, Vec<u8>)> {
    vec![
        ("gzip", Encoding::Gzip, gzip(&text())),
        ("zlib", Encoding::Deflate, zlib(&text())),
        ("raw deflate", Encoding::Deflate, raw(&text())),
        ("brotli", Encoding::Brotli, unhex(BROTLI)),
        ("zstd", Encoding::Zstd, unhex(ZSTD)),
        ("zstd of ours", Encoding::Zstd, zstd(&text())),
    ]
}

fn decode_in_chunks(encoding: Encoding, encoded: &[u8], size: usize) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding, CEILING);
    let mut decoded = Vec::new();
    for chunk in encoded.chunks(size) {
        decoded.extend(decoder.push(chunk)?);
    }
    decoder.finish().map(|()| decoded)
}

#[test]
fn every_encoding_decodes_whatever_the_borders() {
    for (name, encoding, encoded) in samples() {
        for size in [1, 2, 7, 1000] {
            assert_eq!(decode_in_chunks(encoding, &encoded, size), Ok(text()), "{name} in chunks of {size}");
        }
    }
}

#[test]
fn several_members_are_one_body() {
    for (encoding, one) in [(Encoding::Gzip, gzip(&text())), (Encoding::Zstd, zstd(&text()))] {
        let twice = [one.as_slice(), &one].concat();
        assert_eq!(decode_in_chunks(encoding, &twice, 5), Ok([text(), text()].concat()), "{encoding:?}");
    }
}

#[test]
fn a_body_that_ends_early_is_truncated_and_none_is_empty() {
    for (name, encoding, encoded) in samples() {
        for end in 1..encoded.len() {
            assert_eq!(
                decode_in_chunks(encoding, &encoded[..end], 9).err(),
                Some(DecodeError::Truncated),
                "{name} at {end}"
            );
        }
        assert_eq!(decode_bounded(encoding, &[], CEILING), Ok(Vec::new()), "{name}");
    }
}

#[test]
fn garbage_is_damaged_and_the_decoder_stays_spent() {
    for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Brotli] {
        let mut decoder = Decoder::new(encoding, CEILING);
        assert_eq!(decoder.push(b"\xff\xff plainly no encoded data at all"), Err(DecodeError::Damaged), "{encoding:?}");
        assert_eq!(decoder.push(&gzip(b"x")), Err(DecodeError::Damaged), "{encoding:?}");
        assert_eq!(decoder.finish(), Err(DecodeError::Damaged), "{encoding:?}");
    }
}

#[test]
fn a_wrong_checksum_and_bytes_after_the_end_are_damage() {
    let mut wrong = gzip(&text());
    let last = wrong.len() - 5;
    wrong[last] ^= 1;
    assert_eq!(decode_bounded(Encoding::Gzip, &wrong, CEILING), Err(DecodeError::Damaged));
    for (encoding, encoded) in
        [(Encoding::Deflate, zlib(&text())), (Encoding::Brotli, unhex(BROTLI)), (Encoding::Gzip, gzip(b"a"))]
    {
        let longer = [encoded.as_slice(), b"tail"].concat();
        assert_eq!(decode_bounded(encoding, &longer, CEILING), Err(DecodeError::Damaged), "{encoding:?}");
    }
    let mut wrong = unhex(ZSTD);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(decode_bounded(Encoding::Zstd, &wrong, CEILING), Err(DecodeError::Damaged));
}

#[test]
fn bombs_end_at_the_ceiling_or_the_ratio() {
    let zeros = vec![0; 4 * 1024 * 1024];
    for (encoding, encoded) in
        [(Encoding::Gzip, gzip(&zeros)), (Encoding::Deflate, zlib(&zeros)), (Encoding::Zstd, zstd(&zeros))]
    {
        assert_eq!(decode_bounded(encoding, &encoded, 100_000), Err(DecodeError::Ceiling(100_000)), "{encoding:?}");
    }
    assert_eq!(decode_bounded(Encoding::Brotli, &unhex(BROTLI_BOMB), CEILING), Err(DecodeError::Ratio));
}

#[test]
fn encodings_on_one_another_grow_no_more_than_one() {
    let zeros = vec![0; 64 * 1024 * 1024];
    let mut stacked = Decoders::new(&[Encoding::Gzip, Encoding::Gzip], CEILING);
    assert_eq!(stacked.push(&gzip(&gzip(&zeros))), Err(DecodeError::Ratio));
    assert_eq!(stacked.push(b"x"), Err(DecodeError::Ratio), "it is spent");
    // Nor does what shrinks again: each layer's work counts.
    let nothing = gzip(b"").repeat(300_000);
    let mut stacked = Decoders::new(&[Encoding::Gzip, Encoding::Gzip, Encoding::Gzip], CEILING);
    assert_eq!(stacked.push(&gzip(&gzip(&nothing))), Err(DecodeError::Ratio));
    let mut honest = Decoders::new(&[Encoding::Gzip, Encoding::Zstd, Encoding::Deflate], CEILING);
    let body = text().repeat(2000);
    let encoded = gzip(&zstd(&zlib(&body)));
    let decoded: Vec<u8> = encoded.chunks(1000).flat_map(|chunk| honest.push(chunk).unwrap()).collect();
    assert!(decoded == body && honest.finish().is_ok());
    assert_eq!(Decoders::new(&[], 1).push(b"as it is"), Ok(b"as it is".to_vec()));
}

/// Bytes that nothing makes shorter.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(count).collect()
}

#[test]
fn who_gave_little_for_much_has_nothing_saved_up() {
    // A frame of RFC 8878: blocks as they are, then some of one byte repeated, 4 bytes for 128 KiB each.
    let noise = noise(2 * 1024 * 1024);
    let block = |kind: usize, size: usize| (size << 3 | kind << 1).to_le_bytes()[..3].to_vec();
    let honest: Vec<u8> =
        noise.chunks(128 * 1024).flat_map(|part| [block(0, part.len()), part.to_vec()].concat()).collect();
    let frame = [&[0x28, 0xB5, 0x2F, 0xFD, 0x00, 10 << 3][..], &honest].concat();
    let repeated = [block(1, 128 * 1024), vec![0]].concat();
    let mut decoder = Decoder::new(Encoding::Zstd, 1 << 30);
    decoder.push(&frame).unwrap();
    assert_eq!(
        decoder.push(&repeated.repeat(100)).map(|given| given.len() > 8 << 20),
        Ok(true),
        "a window's worth is honest"
    );
    assert_eq!(decoder.push(&repeated.repeat(PIECE / 4)), Err(DecodeError::Ratio));
    let mut stacked = Decoders::new(&[Encoding::Gzip, Encoding::Gzip], 1 << 30);
    stacked.push(&gzip(&gzip(&noise))).unwrap();
    assert_eq!(stacked.push(&gzip(&gzip(&vec![0; 64 << 20]))), Err(DecodeError::Ratio));
}

#[test]
fn a_zstd_frame_with_a_huge_window_is_refused() {
    let frame = [0x28, 0xB5, 0x2F, 0xFD, 0x00, 31 << 3];
    assert_eq!(decode_bounded(Encoding::Zstd, &frame, CEILING), Err(DecodeError::Window));
}

#[test]
fn a_gzip_header_with_all_its_parts_is_passed() {
    let plain = gzip(&text());
    let mut header = plain[..10].to_vec();
    header[3] = 4 | 8 | 16 | 2;
    header.extend(b"\x03\x00abcname\0comment\0\x12\x34");
    let full = [header.as_slice(), &plain[10..]].concat();
    assert_eq!(decode_in_chunks(Encoding::Gzip, &full, 1), Ok(text()));
}

#[test]
fn tokens_name_encodings() {
    let table = [
        ("gzip", Some(Encoding::Gzip)),
        (" X-GZIP ", Some(Encoding::Gzip)),
        ("deflate", Some(Encoding::Deflate)),
        ("br", Some(Encoding::Brotli)),
        ("zstd", Some(Encoding::Zstd)),
        ("compress", None),
        ("gzip, br", None),
        ("", None),
    ];
    for (token, expected) in table {
        assert_eq!(Encoding::from_token(token), expected, "{token:?}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(data in proptest::collection::vec(any::<u8>(), 0..3000), size in 1usize..500) {
        for (encoding, encoded) in [(Encoding::Gzip, gzip(&data)), (Encoding::Deflate, zlib(&data)), (Encoding::Zstd, zstd(&data))] {
            prop_assert_eq!(decode_in_chunks(encoding, &encoded, size), Ok(data.clone()), "{:?}", encoding);
        }
    }

    #[test]
    fn no_input_makes_a_decoder_panic_or_pass_its_ceiling(data in proptest::collection::vec(any::<u8>(), 0..600), start in 0usize..6) {
        let (_, encoding, sample) = samples().swap_remove(start);
        let mixed = [&sample[..sample.len() / 2], &data].concat();
        for input in [data.as_slice(), &mixed] {
            let decoded = decode_bounded(encoding, input, 5000);
            prop_assert!(decoded.map_or(true, |decoded| decoded.len() <= 5000));
        }
    }
}
