//! Sealing what a body brought to every perimeter of the workspace, and taking what its client had sealed.

use postern_model::Problem;
use postern_model::perimeter::Perimeter;
use postern_model::vault::SecretPart;
use postern_secret::seal::{Binding, LONGEST_ENCODED, Recipient, SealError, Sealed, VERSION, Wrap, seal};
use postern_store::credentials::part_binding;

use super::parts::Given;

/// Seals each secret to each perimeter. The plaintext ends here. What came sealed is kept as it is: that it is what it should be shows where it is opened.
///
/// # Errors
/// 400 `perimeter_none` without a perimeter; 400 when one of them cannot be sealed to; 400 `sealed_unusable` for what no perimeter of the workspace opens.
pub(crate) fn seal_parts(
    secrets: Vec<(SecretPart, Given)>,
    binding: &Binding,
    perimeters: &[Perimeter],
) -> Result<Vec<(SecretPart, Sealed)>, Problem> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let recipients = perimeters.iter().map(recipient).collect::<Result<Vec<_>, _>>()?;
    let seal_one = |(part, secret): (SecretPart, Given)| {
        let sealed = match secret {
            Given::Plain(secret) => seal(&secret, &part_binding(binding, part), &recipients).map_err(refused)?,
            Given::Sealed(sealed) => taken(*sealed, &recipients)?,
        };
        Ok((part, sealed))
    };
    secrets.into_iter().map(seal_one).collect()
}

/// Whether it is for perimeters of this workspace: whoever else could open it is nobody's business here.
fn taken(sealed: Sealed, recipients: &[Recipient]) -> Result<Sealed, Problem> {
    if recipients.is_empty() {
        return Err(refused(SealError::NoRecipient));
    }
    let known = |wrap: &Wrap| {
        let is_it =
            |one: &Recipient| one.perimeter_id == wrap.perimeter_id && one.public_key.to_string() == wrap.public_key;
        recipients.iter().any(is_it)
    };
    let fits = sealed.ciphertext.len() <= LONGEST_ENCODED / 2;
    if sealed.version == VERSION && fits && !sealed.wraps.is_empty() && sealed.wraps.iter().all(known) {
        return Ok(sealed);
    }
    let message = "must be of the present version, for perimeters of this workspace and no other: seal it again, as `postern credential create` does";
    Err(Problem::invalid_at("auth.sealed", message).with_code("sealed_unusable"))
}

fn recipient(perimeter: &Perimeter) -> Result<Recipient, Problem> {
    let public_key = perimeter.public_key.parse().map_err(|_| unusable(perimeter.id.as_str()))?;
    Ok(Recipient { perimeter_id: perimeter.id.to_string(), public_key })
}

fn refused(error: SealError) -> Problem {
    match error {
        SealError::NoRecipient => Problem::invalid(
            "No perimeter is registered in this workspace, so nobody could open the secret and it was not stored. \
             Run `postern perimeter register` for the worker or gateway that is to use it, then send this again.",
        )
        .with_code("perimeter_none"),
        SealError::Recipient { perimeter_id } => unusable(&perimeter_id),
        SealError::TooManyRecipients | SealError::TooLong => Problem::invalid(error.to_string()),
    }
}

fn unusable(perimeter: &str) -> Problem {
    Problem::invalid(format!(
        "The public key of perimeter {perimeter} cannot be sealed to. Delete that perimeter and register it again."
    ))
    .with_code("perimeter_key_unusable")
}
