//! gzip with its members, zlib, and raw deflate under the name of zlib.

use flate2::{Decompress, FlushDecompress, Status};

use super::{Budget, DecodeError, STEP};

/// A decoder of the deflate family.
pub(super) struct Flate {
    stage: Stage,
    /// The first bytes of a header that has not arrived whole.
    header: Vec<u8>,
    checksum: flate2::Crc,
    several: bool,
}

enum Stage {
    /// At the start of a gzip member; the first one must come, later ones may.
    GzipHeader { first: bool },
    /// Inside gzip's data.
    GzipData(Box<Decompress>),
    /// Inside gzip's checksum and length.
    GzipTrailer,
    /// Two bytes decide between zlib and raw.
    Undecided,
    /// Inside zlib or raw data.
    Data(Box<Decompress>),
    /// After zlib or raw data; nothing may follow.
    End,
}

impl Flate {
    pub(super) fn gzip() -> Self {
        Self {
            stage: Stage::GzipHeader { first: true },
            header: Vec::new(),
            checksum: flate2::Crc::new(),
            several: true,
        }
    }

    pub(super) fn deflate() -> Self {
        Self { stage: Stage::Undecided, several: false, ..Self::gzip() }
    }

    pub(super) fn is_complete(&self) -> bool {
        match self.stage {
            Stage::GzipHeader { first } => !first && self.header.is_empty(),
            Stage::End => true,
            Stage::GzipData(_) | Stage::GzipTrailer | Stage::Undecided | Stage::Data(_) => false,
        }
    }

    pub(super) fn push(&mut self, input: &[u8], output: &mut Vec<u8>, budget: &mut Budget) -> Result<(), DecodeError> {
        let mut input = input;
        while !input.is_empty() {
            let taken = match &mut self.stage {
                Stage::GzipHeader { .. } => self.gzip_header(input)?,
                Stage::GzipTrailer => self.gzip_trailer(input)?,
                Stage::Undecided => self.decide(input, output, budget)?,
                Stage::GzipData(data) | Stage::Data(data) => {
                    let before = output.len();
                    let (taken, ended) = inflate(data, input, output, budget)?;
                    self.checksum.update(&output[before..]);
                    if ended {
                        self.stage = if self.several { Stage::GzipTrailer } else { Stage::End };
                    }
                    taken
                }
                Stage::End => return Err(DecodeError::Damaged),
            };
            input = &input[taken..];
        }
        Ok(())
    }

    /// Collects a header byte by byte; headers are short.
    fn gzip_header(&mut self, input: &[u8]) -> Result<usize, DecodeError> {
        for (at, byte) in input.iter().enumerate() {
            self.header.push(*byte);
            if is_whole_gzip_header(&self.header)? {
                self.header.clear();
                self.checksum.reset();
                self.stage = Stage::GzipData(Box::new(Decompress::new(false)));
                return Ok(at + 1);
            }
        }
        Ok(input.len())
    }

    fn gzip_trailer(&mut self, input: &[u8]) -> Result<usize, DecodeError> {
        let taken = input.len().min(8 - self.header.len());
        self.header.extend_from_slice(&input[..taken]);
        if let [a, b, c, d, e, f, g, h] = *self.header {
            let expected = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
            if expected != (self.checksum.sum(), self.checksum.amount()) {
                return Err(DecodeError::Damaged);
            }
            self.header.clear();
            self.stage = Stage::GzipHeader { first: false };
        }
        Ok(taken)
    }

    /// RFC 1950: method 8 and a header divisible by 31; else the data is raw, as many servers send it.
    fn decide(&mut self, input: &[u8], output: &mut Vec<u8>, budget: &mut Budget) -> Result<usize, DecodeError> {
        let taken = input.len().min(2 - self.header.len());
        self.header.extend_from_slice(&input[..taken]);
        if let [first, second] = *self.header {
            let zlib = first & 0x0F == 8 && (u32::from(first) * 256 + u32::from(second)).is_multiple_of(31);
            self.stage = Stage::Data(Box::new(Decompress::new(zlib)));
            let header = std::mem::take(&mut self.header);
            self.push(&header, output, budget)?;
        }
        Ok(taken)
    }
}

/// Decodes as far as the input goes; tells how much it took and whether the data ended.
fn inflate(
    data: &mut Decompress,
    input: &[u8],
    output: &mut Vec<u8>,
    budget: &mut Budget,
) -> Result<(usize, bool), DecodeError> {
    let mut taken = 0;
    loop {
        output.reserve(STEP);
        let (in_before, given_before) = (data.total_in(), output.len());
        let room_before = output.capacity() - output.len();
        let status =
            data.decompress_vec(&input[taken..], output, FlushDecompress::None).map_err(|_| DecodeError::Damaged)?;
        let given = output.len() - given_before;
        taken += usize::try_from(data.total_in() - in_before).map_err(|_| DecodeError::Damaged)?;
        budget.give(given)?;
        match status {
            Status::StreamEnd => return Ok((taken, true)),
            // All input taken and room left: nothing more can come of it.
            _ if taken == input.len() && given < room_before => return Ok((taken, false)),
            Status::BufError if given == 0 && taken < input.len() => return Err(DecodeError::Damaged),
            Status::Ok | Status::BufError => {}
        }
    }
}

/// RFC 1952, section 2.3.
fn is_whole_gzip_header(header: &[u8]) -> Result<bool, DecodeError> {
    let fits = |at: usize, allowed: &dyn Fn(u8) -> bool| header.get(at).is_none_or(|byte| allowed(*byte));
    let plausible = fits(0, &|byte| byte == 0x1F) && fits(1, &|byte| byte == 0x8B) && fits(2, &|byte| byte == 8);
    if !plausible || !fits(3, &|flags| flags & 0xE0 == 0) || header.len() > LONGEST_HEADER {
        return Err(DecodeError::Damaged);
    }
    Ok(gzip_header_length(header).is_some_and(|length| header.len() >= length))
}

/// The length of a header, once enough of it is known.
fn gzip_header_length(header: &[u8]) -> Option<usize> {
    let flags = *header.get(3)?;
    let mut length = 10;
    if flags & 4 != 0 {
        let extra = [*header.get(length)?, *header.get(length + 1)?];
        length += 2 + usize::from(u16::from_le_bytes(extra));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            length += header.get(length..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    Some(length + if flags & 2 != 0 { 2 } else { 0 })
}

const LONGEST_HEADER: usize = 128 * 1024;
