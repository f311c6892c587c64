//! Numbers compared exactly: no integer is rounded to a float to be compared with one.

use std::cmp::Ordering;
use std::fmt;

/// A number of a rule or of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Integer(i128),
    /// Finite.
    Float(f64),
}

/// From here on a float stands for several integers.
const FIRST_INEXACT: f64 = 9_007_199_254_740_992.0;

impl Number {
    /// The number of a call. `None` where JSON's digits were rounded away in parsing, so that nobody can say which
    /// number the upstream will read: integers beyond 64 bits, and floats from 2^53 on.
    pub(crate) fn of_call(number: &serde_json::Number) -> Option<Self> {
        let integer = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        let float = || number.as_f64().filter(|float| float.abs() < FIRST_INEXACT);
        integer.map(Self::Integer).or_else(|| float().map(Self::Float))
    }

    /// The order of two numbers.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Integer(one), Self::Integer(two)) => one.cmp(&two),
            (Self::Integer(one), Self::Float(two)) => integer_with_float(one, two),
            (Self::Float(one), Self::Integer(two)) => integer_with_float(two, one).reverse(),
            (Self::Float(one), Self::Float(two)) => float_with_float(one, two),
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.compare(*other) == Ordering::Equal
    }
}

/// Integers here have 64 bits, so a cast that saturates at the ends of 128 bits keeps the order.
fn integer_with_float(integer: i128, float: f64) -> Ordering {
    #[expect(clippy::cast_possible_truncation, reason = "the fraction is cut on purpose and compared after")]
    let whole = float.trunc() as i128;
    integer.cmp(&whole).then_with(|| float_with_float(0.0, float.fract()))
}

fn float_with_float(one: f64, two: f64) -> Ordering {
    one.partial_cmp(&two).expect("both are finite: the file's reader and JSON know no other floats")
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
        }
    }
}
