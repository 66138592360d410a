//! The MAC addresses of this node's VTEPs that weft has made: peers keep sending to them across a restart.

use std::collections::BTreeMap;
use std::time::Instant;

use weft_node::State;
use weft_switch::types::MacAddr;

use crate::model::Model;

/// One for the first network, and one for each further one that there ever was.
pub(super) struct Macs {
    pub(super) first: MacAddr,
    further: BTreeMap<String, MacAddr>,
}

impl Macs {
    /// Those that are remembered; what cannot be read is made anew.
    pub(super) fn restore(state: &State) -> Self {
        let read = |text: &String| text.parse().ok();
        let further = state.vtep_macs.iter().filter_map(|(name, text)| Some((name.clone(), read(text)?)));
        Self {
            first: state.vtep_mac.as_ref().and_then(read).unwrap_or_else(random_mac),
            further: further.collect(),
        }
    }

    /// Makes those that are missing for these networks beside the first.
    pub(super) fn complete<'a>(&mut self, further: impl Iterator<Item = &'a str>) {
        for name in further {
            if !self.further.contains_key(name) {
                self.further.insert(name.to_owned(), random_mac());
            }
        }
    }

    /// For the networks of the model.
    pub(super) fn by_network(&self, model: &Model) -> BTreeMap<String, MacAddr> {
        let mac = |(index, name): (usize, &String)| match index {
            0 => Some(self.first),
            _ => self.further.get(name).copied(),
        };
        let names = model.networks.iter().map(|network| &network.name).enumerate();
        names.filter_map(|(index, name)| Some((name.clone(), mac((index, name))?))).collect()
    }

    /// The first network's, as the state directory holds it.
    pub(super) fn first(&self) -> String {
        self.first.to_string()
    }

    /// The others, as the state directory holds them.
    pub(super) fn further(&self) -> BTreeMap<String, String> {
        self.further.iter().map(|(name, mac)| (name.clone(), mac.to_string())).collect()
    }
}

/// A locally administered unicast address that nobody has.
fn random_mac() -> MacAddr {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's hasher is seeded by the kernel's random numbers.
    let [a, b, c, d, e, f, ..] = RandomState::new().hash_one(Instant::now()).to_be_bytes();
    MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_remembered_and_an_old_state_is_understood() {
        let old = State { vtep_mac: Some("02:00:00:00:00:07".to_owned()), ..State::default() };
        let mut macs = Macs::restore(&old);
        assert_eq!((macs.first().as_str(), macs.further().len()), ("02:00:00:00:00:07", 0));
        macs.complete(["blue", "red"].into_iter());
        let made = macs.further();
        assert_eq!(made.len(), 2);
        assert!(made["blue"] != made["red"]);

        let state = State { vtep_mac: Some(macs.first()), vtep_macs: macs.further(), ..State::default() };
        let mut again = Macs::restore(&state);
        again.complete(["red", "blue"].into_iter());
        assert_eq!(again.further(), made);
    }
}
