//! Perimeters: the public keys to which credentials are sealed on arrival. Ours; the contract has no such resource.

use serde::{Deserialize, Serialize};

use crate::ids::{EnvironmentId, PerimeterId, TunnelId};
use crate::{Problem, Timestamp};

const MAX_NAME: usize = 255;
/// An X25519 key in hex.
const KEY_DIGITS: usize = 64;

/// A registered perimeter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perimeter {
    /// Its id.
    pub id: PerimeterId,
    /// Always `perimeter`.
    #[serde(rename = "type")]
    pub kind: PerimeterTag,
    /// The operator's name for it.
    pub name: String,
    /// X25519, lower-case hex: what is sealed to it only its custody opens.
    pub public_key: String,
    /// The environment that its workers serve.
    pub environment_id: Option<EnvironmentId>,
    /// The tunnel that its gateway ends.
    pub tunnel_id: Option<TunnelId>,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// The constant `perimeter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PerimeterTag {
    /// `perimeter`.
    #[default]
    #[serde(rename = "perimeter")]
    Perimeter,
}

/// The body that registers a perimeter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatePerimeter {
    /// The operator's name for it.
    pub name: String,
    /// X25519, hex.
    pub public_key: String,
    /// The environment that its workers serve.
    #[serde(default)]
    pub environment_id: Option<EnvironmentId>,
    /// The tunnel that its gateway ends.
    #[serde(default)]
    pub tunnel_id: Option<TunnelId>,
}

impl CreatePerimeter {
    /// The same with the key in lower case, when all of it is well-formed.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<Self, Problem> {
        if !(1..=MAX_NAME).contains(&self.name.chars().count()) {
            return Err(Problem::invalid_at("name", format!("must have 1 to {MAX_NAME} characters")));
        }
        let public_key = self.public_key.to_ascii_lowercase();
        if public_key.len() != KEY_DIGITS || !public_key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Problem::invalid_at("public_key", "must be an X25519 public key: 64 hex digits"));
        }
        if self.environment_id.is_none() && self.tunnel_id.is_none() {
            return Err(Problem::invalid("environment_id or tunnel_id: say what this perimeter serves"));
        }
        Ok(Self { public_key, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perimeter_has_a_name_a_key_and_something_to_serve() {
        let key = "AB".repeat(32);
        let environment = EnvironmentId::generate();
        let body = |name: &str, key: &str, serves: bool| CreatePerimeter {
            name: name.to_owned(),
            public_key: key.to_owned(),
            environment_id: serves.then(|| environment.clone()),
            tunnel_id: None,
        };
        assert_eq!(body("p", &key, true).checked().unwrap().public_key, "ab".repeat(32));
        for (body, place) in [
            (body("", &key, true), "name"),
            (body("p", "ab", true), "public_key"),
            (body("p", &"zz".repeat(32), true), "public_key"),
            (body("p", &key, false), "environment_id"),
        ] {
            assert!(body.checked().unwrap_err().message.starts_with(place));
        }
    }
}
