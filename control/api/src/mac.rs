//! A MAC address in JSON and on the command line. The switch has a type of its own; this crate must not link it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An IEEE 802 MAC address. In JSON a string such as `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(
    value_type = String, pattern = "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$", example = "02:00:00:00:00:01"))]
pub struct Mac(pub [u8; 6]);

/// Text that is no MAC address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no MAC address (six hexadecimal bytes with colons, such as 02:00:00:00:00:01)")]
pub struct MacError(pub String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.to_owned());
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_both_ways() {
        let mac: Mac = "02:00:5e:10:FF:01".parse().unwrap();
        assert_eq!(serde_json::to_string(&mac).unwrap(), r#""02:00:5e:10:ff:01""#);
        for wrong in
            ["", "02:00:5e:10:ff", "02:00:5e:10:ff:01:02", "2:0:5e:10:ff:1", "02:00:5e:10:ff:+1", "é:"]
        {
            assert_eq!(wrong.parse::<Mac>(), Err(MacError(wrong.to_owned())));
        }
    }
}
