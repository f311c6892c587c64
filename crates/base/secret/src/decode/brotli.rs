//! Brotli. Large windows, which no browser and no HTTP server uses, are refused by the decoder itself.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::{Budget, DecodeError, STEP};

/// A brotli decoder.
pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    ended: bool,
    total: usize,
}

impl Brotli {
    pub(super) fn new() -> Self {
        let allocate = StandardAlloc::default;
        Self { state: BrotliState::new(allocate(), allocate(), allocate()), ended: false, total: 0 }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.ended
    }

    pub(super) fn push(&mut self, input: &[u8], output: &mut Vec<u8>, budget: &mut Budget) -> Result<(), DecodeError> {
        let mut offset = 0;
        let mut buffer = [0; STEP];
        while !self.ended {
            let (mut available, mut room, mut written) = (input.len() - offset, STEP, 0);
            let result = BrotliDecompressStream(
                &mut available,
                &mut offset,
                input,
                &mut room,
                &mut written,
                &mut buffer,
                &mut self.total,
                &mut self.state,
            );
            budget.give(written)?;
            output.extend_from_slice(&buffer[..written]);
            match result {
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(DecodeError::Damaged),
            }
        }
        // Nothing may follow the data.
        if offset == input.len() { Ok(()) } else { Err(DecodeError::Damaged) }
    }
}
