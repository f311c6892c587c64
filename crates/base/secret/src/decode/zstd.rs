//! Zstandard frames, block by block. The decoder gives data once it is older than its window, so a stream's newest
//! bytes come with later ones or with the frame's end. Dictionaries are refused.

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Budget, DecodeError, WINDOW_LIMIT};

/// A decoder of frames.
pub(super) struct Zstd {
    decoder: FrameDecoder,
    stage: Stage,
    /// Input that makes no whole header or block yet: at most a block and its header.
    pending: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Stage {
    /// Before a frame; the first must come, later ones may.
    Frame { first: bool },
    /// Inside a frame's blocks.
    Blocks { checksum: bool },
    /// Inside a frame without data, so many bytes before its end.
    Skippable(u64),
}

impl Zstd {
    pub(super) fn new() -> Self {
        Self { decoder: FrameDecoder::new(), stage: Stage::Frame { first: true }, pending: Vec::new() }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Frame { first: false }) && self.pending.is_empty()
    }

    pub(super) fn push(&mut self, input: &[u8], output: &mut Vec<u8>, budget: &mut Budget) -> Result<(), DecodeError> {
        self.pending.extend_from_slice(input);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some(taken) = self.step(rest, output, budget)? {
            rest = &rest[taken..];
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    /// One header or block; `None` where it has not arrived whole.
    fn step(&mut self, rest: &[u8], output: &mut Vec<u8>, budget: &mut Budget) -> Result<Option<usize>, DecodeError> {
        if rest.is_empty() {
            return Ok(None);
        }
        match self.stage {
            Stage::Frame { .. } => self.frame(rest),
            Stage::Blocks { checksum } => self.block(rest, checksum, output, budget),
            Stage::Skippable(left) => {
                let taken = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - taken as u64;
                self.stage = if left == 0 { Stage::Frame { first: false } } else { Stage::Skippable(left) };
                Ok(Some(taken))
            }
        }
    }

    /// RFC 8878, sections 3.1.1.1 and 3.1.2.
    fn frame(&mut self, rest: &[u8]) -> Result<Option<usize>, DecodeError> {
        let Some(magic) = rest.first_chunk::<4>() else { return Ok(None) };
        if let [0x50..=0x5F, 0x2A, 0x4D, 0x18] = magic {
            let Some(length) = rest.get(4..8) else { return Ok(None) };
            let length = length.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
            self.stage = if length == 0 { Stage::Frame { first: false } } else { Stage::Skippable(length) };
            return Ok(Some(8));
        }
        let Some(header) = Header::read(rest)? else { return Ok(None) };
        if header.window > WINDOW_LIMIT {
            return Err(DecodeError::Window);
        }
        self.decoder.reset(&rest[..header.length]).map_err(|_| DecodeError::Damaged)?;
        self.stage = Stage::Blocks { checksum: header.checksum };
        Ok(Some(header.length))
    }

    /// RFC 8878, section 3.1.1.2.
    fn block(
        &mut self,
        rest: &[u8],
        checksum: bool,
        output: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> Result<Option<usize>, DecodeError> {
        let Some(&[a, b, c]) = rest.first_chunk::<3>() else { return Ok(None) };
        let header = u32::from_le_bytes([a, b, c, 0]);
        let (last, kind, size) = (header & 1 == 1, header >> 1 & 3, (header >> 3) as usize);
        let body = match kind {
            1 => 1,
            0 | 2 if size <= LARGEST_BLOCK => size,
            _ => return Err(DecodeError::Damaged),
        };
        let length = 3 + body + if last && checksum { 4 } else { 0 };
        let Some(block) = rest.get(..length) else { return Ok(None) };
        self.decoder.decode_blocks(block, BlockDecodingStrategy::UptoBlocks(1)).map_err(|_| DecodeError::Damaged)?;
        let given = self.decoder.collect().unwrap_or_default();
        budget.give(given.len())?;
        output.extend(given);
        if last {
            if checksum && self.decoder.get_checksum_from_data() != self.decoder.get_calculated_checksum() {
                return Err(DecodeError::Damaged);
            }
            self.stage = Stage::Frame { first: false };
        }
        Ok(Some(length))
    }
}

struct Header {
    length: usize,
    window: u64,
    checksum: bool,
}

impl Header {
    fn read(rest: &[u8]) -> Result<Option<Self>, DecodeError> {
        if rest[..4] != [0x28, 0xB5, 0x2F, 0xFD] {
            return Err(DecodeError::Damaged);
        }
        let Some(&descriptor) = rest.get(4) else { return Ok(None) };
        if descriptor & 3 != 0 || descriptor & 8 != 0 {
            return Err(DecodeError::Damaged);
        }
        let single = descriptor & 0x20 != 0;
        let window_length = usize::from(!single);
        let size_length = [usize::from(single), 2, 4, 8][usize::from(descriptor >> 6)];
        let length = 5 + window_length + size_length;
        let Some(header) = rest.get(..length) else { return Ok(None) };
        let window = if single { content_size(&header[5..]) } else { window_size(header[5]) };
        Ok(Some(Self { length, window, checksum: descriptor & 4 != 0 }))
    }
}

fn content_size(field: &[u8]) -> u64 {
    let number = field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if field.len() == 2 { number + 256 } else { number }
}

fn window_size(descriptor: u8) -> u64 {
    let base = 1_u64 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}

const LARGEST_BLOCK: usize = 128 * 1024;
