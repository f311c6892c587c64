//! Sealing what a body brought to every perimeter of the workspace.

use postern_model::Problem;
use postern_model::perimeter::Perimeter;
use postern_model::vault::SecretPart;
use postern_secret::SecretBytes;
use postern_secret::seal::{Binding, Recipient, SealError, Sealed, seal};
use postern_store::credentials::part_binding;

/// Seals each secret to each perimeter. The plaintext ends here.
///
/// # Errors
/// 400 `perimeter_none` without a perimeter; 400 when one of them cannot be sealed to.
pub(crate) fn seal_parts(
    secrets: Vec<(SecretPart, SecretBytes)>,
    binding: &Binding,
    perimeters: &[Perimeter],
) -> Result<Vec<(SecretPart, Sealed)>, Problem> {
    if secrets.is_empty() {
        return Ok(Vec::new());
    }
    let recipients = perimeters.iter().map(recipient).collect::<Result<Vec<_>, _>>()?;
    let seal_one = |(part, secret): (SecretPart, SecretBytes)| {
        seal(&secret, &part_binding(binding, part), &recipients).map(|sealed| (part, sealed)).map_err(refused)
    };
    secrets.into_iter().map(seal_one).collect()
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
