//! Quantities with their unit in the text: `"2GiB"`, `"30s"`.

use std::str::FromStr;

/// A number of bytes, written as `512`, `"64KiB"`, `"2GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// A time, written as `"250ms"`, `"30s"`, `"5m"`, `"24h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

/// The text is not a quantity of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuantity(&'static str);

const BAD_BYTES: BadQuantity = BadQuantity("not a size; write a whole number and B, KiB, MiB, GiB or TiB, as in 2GiB");
const BAD_TIME: BadQuantity = BadQuantity("not a time; write a whole number and ms, s, m or h, as in 30s");

impl FromStr for ByteCount {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (number, unit) = split(text).ok_or(BAD_BYTES)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(BAD_BYTES),
        };
        number.checked_mul(1 << shift).map(Self).ok_or(BAD_BYTES)
    }
}

impl FromStr for Duration {
    type Err = BadQuantity;
    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (number, unit) = split(text).ok_or(BAD_TIME)?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(BAD_TIME),
        };
        number.checked_mul(milliseconds).map(|total| Self(std::time::Duration::from_millis(total))).ok_or(BAD_TIME)
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_carry_their_unit() {
        assert_eq!("2GiB".parse(), Ok(ByteCount(2 << 30)));
        assert_eq!("64 KiB".parse(), Ok(ByteCount(64 << 10)));
        assert_eq!("250ms".parse(), Ok(Duration(std::time::Duration::from_millis(250))));
        for bad in ["", "2", "2GB", "-1GiB", "1.5GiB", "GiB", "99999999999TiB"] {
            assert_eq!(bad.parse::<ByteCount>(), Err(BAD_BYTES), "{bad}");
        }
        assert_eq!("1d".parse::<Duration>(), Err(BAD_TIME));
    }
}
