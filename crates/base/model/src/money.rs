//! Money: what tokens cost and what a session may spend. Whole numbers throughout: no amount is ever rounded on its way.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Problem;
use crate::event::ModelUsage;

/// The most that a budget can allow, in cents.
pub const MOST_CENTS: u64 = 1_000_000_000;
/// The most that a million tokens can cost, in dollars.
const MOST_DOLLARS: u64 = 1_000_000;
/// One cent in the unit of [`Cost`].
const CENT: u64 = 10_000_000_000;

/// An exact cost, in picodollars: a price per million tokens with six decimals is a whole number of them per token. Beyond
/// 18 million dollars it stays there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cost(u64);

impl Cost {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What of it is whole cents, as clients are shown.
    pub fn shown(self) -> MonetaryAmount {
        MonetaryAmount { amount: Cents(self.0 / CENT), currency: Currency::Usd }
    }

    fn of(tokens: u64, each: Self) -> Self {
        Self(each.0.saturating_mul(tokens))
    }
}

/// What the tokens of one model cost, each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Uncached input.
    pub input: Cost,
    /// Output.
    pub output: Cost,
    /// Input written to the cache.
    pub cache_write: Cost,
    /// Input read from the cache.
    pub cache_read: Cost,
}

impl Price {
    /// What these tokens cost.
    pub fn of(&self, tokens: &ModelUsage) -> Cost {
        Cost::of(tokens.input_tokens, self.input)
            .plus(Cost::of(tokens.output_tokens, self.output))
            .plus(Cost::of(tokens.cache_creation_input_tokens, self.cache_write))
            .plus(Cost::of(tokens.cache_read_input_tokens, self.cache_read))
    }
}

/// A price in dollars for a million tokens, as a configuration gives it: `"3"`, `"0.30"`, at most six decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerMillion(
    /// What one token costs.
    pub Cost,
);

/// A text that is no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no price: dollars for a million tokens, such as \"3\" or \"0.30\", at most 1000000 and six decimals")]
pub struct NoPrice;

impl FromStr for PerMillion {
    type Err = NoPrice;

    fn from_str(text: &str) -> Result<Self, NoPrice> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) || fraction.len() > 6 {
            return Err(NoPrice);
        }
        let dollars: u64 = whole.parse().map_err(|_| NoPrice)?;
        let millionths: u64 = format!("{fraction:0<6}").parse().map_err(|_| NoPrice)?;
        match dollars {
            0..MOST_DOLLARS => Ok(Self(Cost(dollars * 1_000_000 + millionths))),
            MOST_DOLLARS if millionths == 0 => Ok(Self(Cost(dollars * 1_000_000))),
            _ => Err(NoPrice),
        }
    }
}

/// An amount as the contract shows it: whole cents in a text, so that nobody reads them into a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonetaryAmount {
    /// In cents.
    amount: Cents,
    /// Dollars, of the United States.
    currency: Currency,
}

impl MonetaryAmount {
    /// As an exact cost.
    pub fn cost(self) -> Cost {
        Cost(self.amount.0.saturating_mul(CENT))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Cents(u64);

impl TryFrom<String> for Cents {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let cents: u64 = text.parse().map_err(|_| "`amount` is a text of cents: \"2500\" is 25 dollars")?;
        // `parse` takes a sign and leading zeros.
        if cents.to_string() == text {
            Ok(Self(cents))
        } else {
            Err("`amount` is a text of cents without sign and leading zeros")
        }
    }
}

impl From<Cents> for String {
    fn from(cents: Cents) -> Self {
        cents.0.to_string()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Currency {
    #[serde(rename = "USD")]
    Usd,
}

/// What a session may spend: before a model request that would come after it, the session pauses (contract 3.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetLimit {
    /// Always `limit`.
    #[serde(rename = "type")]
    kind: LimitTag,
    /// The amount.
    pub max_list_cost: MonetaryAmount,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum LimitTag {
    #[serde(rename = "limit")]
    Limit,
}

impl BudgetLimit {
    /// Reads what a request carries.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn parse(sent: &Value) -> Result<Self, Problem> {
        // A struct would also be read from an array, by position.
        if !sent.is_object() || !sent["max_list_cost"].is_object() {
            let message = r#"must be {"type": "limit", "max_list_cost": {"amount": "2500", "currency": "USD"}}"#;
            return Err(Problem::invalid_at("budget", message));
        }
        let budget: Self = Self::deserialize(sent).map_err(|error| Problem::invalid_at("budget", error))?;
        match budget.max_list_cost.amount.0 {
            1..=MOST_CENTS => Ok(budget),
            _ => Err(Problem::invalid_at("budget.max_list_cost.amount", format!("must be 1 to {MOST_CENTS} cents"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_price_is_exact_to_six_decimals() {
        for (text, each) in [
            ("3", Some(3_000_000)),
            ("0.30", Some(300_000)),
            ("0.000001", Some(1)),
            ("1000000", Some(1_000_000_000_000)),
            ("1000000.1", None),
            ("0.0000001", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("", None),
            (".5", None),
            ("1.", None),
            ("1,5", None),
        ] {
            assert_eq!(text.parse::<PerMillion>().ok().map(|price| price.0.0), each, "{text:?}");
        }
    }

    #[test]
    fn tokens_cost_what_they_cost_to_the_last_one() {
        let each = |text: &str| text.parse::<PerMillion>().unwrap().0;
        let price = Price { input: each("3"), output: each("15"), cache_write: each("3.75"), cache_read: each("0.30") };
        let tokens = ModelUsage {
            input_tokens: 1,
            output_tokens: 1,
            cache_creation_input_tokens: 1,
            cache_read_input_tokens: 1,
        };
        assert_eq!(price.of(&tokens), Cost(22_050_000));
        let many = ModelUsage { output_tokens: u64::MAX, ..tokens };
        assert_eq!(price.of(&many), Cost(u64::MAX), "what is beyond all counting does not begin again");
        let third = (0..3_333).fold(Cost::default(), |sum, _| sum.plus(each("0.1")));
        assert_eq!(third, Cost(333_300_000), "a sum of many small ones loses nothing");
    }

    #[test]
    fn what_is_shown_is_never_more_than_what_was_spent() {
        for (cost, shown) in [(0, "0"), (CENT - 1, "0"), (CENT, "1"), (CENT * 99 + 1, "99")] {
            assert_eq!(serde_json::to_value(Cost(cost).shown()).unwrap(), json!({"amount": shown, "currency": "USD"}));
        }
    }

    #[test]
    fn only_one_writing_of_a_budget_is_taken() {
        let budget = |amount: Value| json!({"type": "limit", "max_list_cost": {"amount": amount, "currency": "USD"}});
        assert_eq!(BudgetLimit::parse(&budget("2500".into())).unwrap().max_list_cost.cost(), Cost(2500 * CENT));
        let round = serde_json::to_value(BudgetLimit::parse(&budget("7".into())).unwrap()).unwrap();
        assert_eq!(round, budget("7".into()));
        for refused in [
            budget("0".into()),
            budget("007".into()),
            budget("+7".into()),
            budget("-7".into()),
            budget("7.5".into()),
            budget(7.into()),
            budget("1000000001".into()),
            budget("99999999999999999999999".into()),
            json!({"type": "limit", "max_list_cost": {"amount": "7", "currency": "EUR"}}),
            json!({"type": "limit", "max_list_cost": {"amount": "7"}}),
            json!({"type": "limit", "max_list_cost": ["7", "USD"]}),
            json!({"type": "limit"}),
            json!({"type": "other", "max_list_cost": {"amount": "7", "currency": "USD"}}),
            json!({"type": "limit", "max_list_cost": {"amount": "7", "currency": "USD"}, "more": 1}),
            json!(["limit", {"amount": "7", "currency": "USD"}]),
            json!({}),
        ] {
            assert_eq!(BudgetLimit::parse(&refused).unwrap_err().status(), 400, "{refused}");
        }
    }
}
