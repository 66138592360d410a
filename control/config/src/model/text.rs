//! serde for the switch's checked numbers, whose crate knows no serde: MAC addresses as text, the others as
//! integers.

use serde::{Deserialize, Deserializer, Serializer, de::Error};
use std::collections::BTreeMap;
use weft_types::{BitRate, MacAddr, Mtu, Vni};

/// `Option<MacAddr>` as `"02:00:00:00:00:01"`.
pub(super) mod mac {
    use super::*;

    pub(in crate::model) fn serialize<S: Serializer>(
        mac: &Option<MacAddr>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match mac {
            Some(mac) => to.collect_str(mac),
            None => to.serialize_none(),
        }
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<MacAddr>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|t| t.parse().map_err(D::Error::custom)).transpose()
    }
}

/// `Vni` as an integer.
pub(super) mod vni {
    use super::*;

    pub(in crate::model) fn serialize<S: Serializer>(vni: &Vni, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(vni.get())
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vni, D::Error> {
        Vni::new(u32::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// `BitRate` as an integer.
pub(super) mod rate {
    use super::*;

    pub(in crate::model) fn serialize<S: Serializer>(rate: &BitRate, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(rate.get())
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BitRate, D::Error> {
        BitRate::new(u64::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// `Option<Mtu>` as an integer.
pub(super) mod mtu {
    use super::*;

    pub(in crate::model) fn serialize<S: Serializer>(mtu: &Option<Mtu>, to: S) -> Result<S::Ok, S::Error> {
        match mtu {
            Some(mtu) => to.serialize_u64(mtu.get() as u64),
            None => to.serialize_none(),
        }
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Mtu>, D::Error> {
        let number = Option::<u32>::deserialize(from)?;
        number.map(|n| Mtu::new(n).map_err(D::Error::custom)).transpose()
    }
}

/// MAC addresses by name, as `{"blue": "02:00:00:00:00:01"}`.
pub(super) mod macs {
    use super::*;

    pub(in crate::model) fn serialize<S: Serializer>(
        macs: &BTreeMap<String, MacAddr>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(macs.iter().map(|(name, mac)| (name, mac.to_string())))
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<String, MacAddr>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(from)?;
        texts.into_iter().map(|(name, mac)| Ok((name, mac.parse().map_err(D::Error::custom)?))).collect()
    }
}
