//! A program moved to one place ahead of need. A position-independent program is given its address by the loader, which then writes every address into
//! its data: megabytes of pages that each process first copies, and a millisecond or two of each start. Here that is done once for the image that all
//! sandboxes of a spawner share: the addresses are those of a place chosen at random when the spawner starts, and the loader finds nothing left to write.
//! Libraries, stack and heap still differ from one start to the next.
//!
//! Pure: bytes in, bytes out. A program with anything in it that is not known here is left as it is, and only starts slower.

use std::ops::Range;

/// The program, linked for `base`; none when it is not of the kind that is understood here.
pub(super) fn placed(program: &[u8], base: u64) -> Option<Vec<u8>> {
    let mut program = Program { bytes: program.to_vec(), base };
    let layout = Layout::read(&program)?;
    program.fill_in_addresses(&layout)?;
    program.move_symbols(&layout)?;
    program.move_dynamic(&layout)?;
    program.move_segments(&layout)?;
    Some(program.bytes)
}

/// Places are page-aligned, where the kernel itself would put such a program: above two thirds of the address space, with as many random bits.
pub(super) fn place(random: u64) -> u64 {
    const LOWEST: u64 = 0x5555_5555_4000;
    const RANDOM_BITS: u32 = 28;
    LOWEST + ((random & ((1 << RANDOM_BITS) - 1)) << 12)
}

struct Program {
    bytes: Vec<u8>,
    base: u64,
}

/// Where things are in the file.
struct Layout {
    segments: Vec<Segment>,
    dynamic: Range<usize>,
    /// Of all relocations with explicit addends, the first so many are plain addresses.
    relocations: Range<usize>,
    plain: usize,
    /// Those of the procedure table.
    procedures: Range<usize>,
    symbols: Range<usize>,
}

/// A program header.
struct Segment {
    at: usize,
    kind: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

impl Layout {
    fn read(program: &Program) -> Option<Self> {
        let is_known = program.bytes.get(..HEADER_START.len())? == HEADER_START
            && program.half(16)? == DYNAMIC_FILE
            && program.half(18)? == X86_64;
        let (table, size, count) = (program.word(32)?, program.half(54)?, program.half(56)?);
        if !is_known || usize::from(size) != SEGMENT_BYTES {
            return None;
        }
        let at = |number: u16| usize::try_from(table).ok()?.checked_add(usize::from(number) * SEGMENT_BYTES);
        let segments: Vec<_> = (0..count).map(|number| Segment::read(program, at(number)?)).collect::<Option<_>>()?;
        let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC)?;
        let dynamic = program.range(dynamic.offset, dynamic.in_file)?;
        let tags = Tags::read(program, &dynamic)?;
        // The table of section headers alone says how many symbols there are.
        let symbols = symbol_table(program)?;
        let file_of = |address: u64, length: u64| program.file_range(&segments, address, length);
        Some(Self {
            relocations: file_of(tags.of(DT_RELA)?, tags.of(DT_RELASZ)?)?,
            plain: usize::try_from(tags.of(DT_RELACOUNT)?).ok()?,
            procedures: match (tags.of(DT_JMPREL), tags.of(DT_PLTRELSZ)) {
                (Some(at), Some(length)) => file_of(at, length)?,
                (None, None) => 0..0,
                _ => return None,
            },
            symbols,
            dynamic,
            segments,
        })
    }
}

impl Segment {
    fn read(program: &Program, at: usize) -> Option<Self> {
        let word = |field: usize| program.word(at.checked_add(field)?);
        let kind = u32::try_from(program.word(at)? & 0xFFFF_FFFF).ok()?;
        Some(Self { at, kind, offset: word(8)?, address: word(16)?, in_file: word(32)?, in_memory: word(40)? })
    }
}

/// The entries of the dynamic section, up to its end. One that is not known here could hold an address.
struct Tags(Vec<(u64, u64)>);

impl Tags {
    fn read(program: &Program, dynamic: &Range<usize>) -> Option<Self> {
        let mut tags = Vec::new();
        for at in dynamic.clone().step_by(DYNAMIC_BYTES) {
            let (tag, value) = (program.word(at)?, program.word(at + 8)?);
            if tag == 0 {
                // Lazily bound procedures would be found by what the file has in their table.
                let eager = tags.iter().any(|(tag, value)| *tag == DT_FLAGS && value & DF_BIND_NOW != 0);
                return eager.then_some(Self(tags));
            }
            if !ADDRESSES.contains(&tag) && !NUMBERS.contains(&tag) {
                return None;
            }
            tags.push((tag, value));
        }
        None
    }

    fn of(&self, tag: u64) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == tag).map(|(_, value)| *value)
    }
}

impl Program {
    /// Does what the loader would do for plain addresses, and tells it of the others where they are now.
    fn fill_in_addresses(&mut self, layout: &Layout) -> Option<()> {
        for (number, at) in layout.relocations.clone().step_by(RELOCATION_BYTES).enumerate() {
            let (place, kind, addend) = (self.word(at)?, self.word(at + 8)? & 0xFFFF_FFFF, self.word(at + 16)?);
            match (number < layout.plain, kind) {
                (true, R_RELATIVE) => {
                    let target = self.file_range(&layout.segments, place, 8)?;
                    self.set_word(target.start, self.moved(addend))?;
                }
                (false, _) => self.move_relocation(at)?,
                (true, _) => return None,
            }
        }
        layout.procedures.clone().step_by(RELOCATION_BYTES).try_for_each(|at| self.move_relocation(at))
    }

    fn move_relocation(&mut self, at: usize) -> Option<()> {
        match self.word(at + 8)? & 0xFFFF_FFFF {
            R_64 | R_COPY | R_GLOB_DAT | R_JUMP_SLOT | R_DTPMOD64 | R_DTPOFF64 | R_TPOFF64 => {}
            R_RELATIVE | R_IRELATIVE => self.set_word(at + 16, self.moved(self.word(at + 16)?))?,
            _ => return None,
        }
        self.set_word(at, self.moved(self.word(at)?))
    }

    /// Symbols that the program itself defines have addresses, unless they are absolute or offsets into thread-local storage.
    fn move_symbols(&mut self, layout: &Layout) -> Option<()> {
        for at in layout.symbols.clone().step_by(SYMBOL_BYTES) {
            let (kind, section) = (self.bytes.get(at + 4)? & 0xF, self.half(at + 6)?);
            if section != 0 && section != ABSOLUTE && kind != STT_TLS {
                self.set_word(at + 8, self.moved(self.word(at + 8)?))?;
            }
        }
        Some(())
    }

    fn move_dynamic(&mut self, layout: &Layout) -> Option<()> {
        let done = (layout.plain * RELOCATION_BYTES) as u64;
        for at in layout.dynamic.clone().step_by(DYNAMIC_BYTES) {
            let (tag, value) = (self.word(at)?, self.word(at + 8)?);
            let value = match tag {
                0 => return Some(()),
                DT_RELA => self.moved(value) + done,
                DT_RELASZ => value.checked_sub(done)?,
                DT_RELACOUNT => 0,
                tag if ADDRESSES.contains(&tag) => self.moved(value),
                _ => value,
            };
            self.set_word(at + 8, value)?;
        }
        None
    }

    fn move_segments(&mut self, layout: &Layout) -> Option<()> {
        for segment in layout.segments.iter().filter(|segment| segment.in_memory > 0) {
            for field in [16, 24] {
                self.set_word(segment.at + field, self.moved(self.word(segment.at + field)?))?;
            }
        }
        self.set_word(ENTRY, self.moved(self.word(ENTRY)?))?;
        self.bytes.get_mut(16..18)?.copy_from_slice(&FIXED_FILE.to_le_bytes());
        Some(())
    }

    fn moved(&self, address: u64) -> u64 {
        address.wrapping_add(self.base)
    }

    /// Where in the file an address and what follows it are.
    fn file_range(&self, segments: &[Segment], address: u64, length: u64) -> Option<Range<usize>> {
        let end = address.checked_add(length)?;
        let holds = |segment: &&Segment| {
            let known = segment.address..=segment.address.saturating_add(segment.in_file);
            segment.kind == PT_LOAD && known.contains(&address) && known.contains(&end)
        };
        let segment = segments.iter().find(holds)?;
        self.range(segment.offset.checked_add(address - segment.address)?, length)
    }

    /// A part of the file that is there.
    fn range(&self, offset: u64, length: u64) -> Option<Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }

    fn half(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
    }

    fn word(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }

    fn set_word(&mut self, at: usize, value: u64) -> Option<()> {
        self.bytes.get_mut(at..at.checked_add(8)?)?.copy_from_slice(&value.to_le_bytes());
        Some(())
    }
}

/// The symbols that the loader knows, by the table of section headers.
fn symbol_table(program: &Program) -> Option<Range<usize>> {
    const SECTION_BYTES: u16 = 64;
    let (table, size, count) = (program.word(40)?, program.half(58)?, program.half(60)?);
    if size != SECTION_BYTES {
        return None;
    }
    let headers = program.range(table, u64::from(size) * u64::from(count))?;
    headers.step_by(usize::from(size)).find_map(|at| {
        let kind = program.word(at)? >> 32;
        (kind == SHT_DYNSYM).then(|| program.range(program.word(at + 24)?, program.word(at + 32)?))?
    })
}

/// ELF, 64 bits, little-endian, version 1.
const HEADER_START: &[u8] = b"\x7fELF\x02\x01\x01";
const ENTRY: usize = 24;
const FIXED_FILE: u16 = 2;
const DYNAMIC_FILE: u16 = 3;
const X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const SHT_DYNSYM: u64 = 11;
const STT_TLS: u8 = 6;
const ABSOLUTE: u16 = 0xFFF1;
const SEGMENT_BYTES: usize = 56;
const DYNAMIC_BYTES: usize = 16;
const RELOCATION_BYTES: usize = 24;
const SYMBOL_BYTES: usize = 24;

const DT_PLTRELSZ: u64 = 2;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_JMPREL: u64 = 23;
const DT_FLAGS: u64 = 30;
const DT_RELACOUNT: u64 = 0x6FFF_FFF9;
const DF_BIND_NOW: u64 = 8;
/// Entries that are addresses: tables of hashes, strings, symbols, relocations, versions, and of what runs at start and end.
const ADDRESSES: [u64; 14] =
    [3, 4, 5, 6, DT_RELA, 12, 13, DT_JMPREL, 25, 26, 32, 0x6FFF_FEF5, 0x6FFF_FFF0, 0x6FFF_FFFE];
/// Entries that are numbers, names or flags. The one for debuggers is the loader's to fill.
const NUMBERS: [u64; 18] = [
    1,
    DT_PLTRELSZ,
    DT_RELASZ,
    9,
    10,
    11,
    14,
    15,
    20,
    21,
    24,
    27,
    28,
    29,
    DT_FLAGS,
    DT_RELACOUNT,
    0x6FFF_FFFB,
    0x6FFF_FFFF,
];

const R_64: u64 = 1;
const R_COPY: u64 = 5;
const R_GLOB_DAT: u64 = 6;
const R_JUMP_SLOT: u64 = 7;
const R_RELATIVE: u64 = 8;
const R_DTPMOD64: u64 = 16;
const R_DTPOFF64: u64 = 17;
const R_TPOFF64: u64 = 18;
const R_IRELATIVE: u64 = 37;

#[cfg(test)]
mod tests;
