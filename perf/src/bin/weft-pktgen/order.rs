//! Which flow and which size is next.

use std::str::FromStr;

/// The order in which flows send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Order {
    /// One after the other, each time round: every packet is of another flow.
    RoundRobin,
    /// By chance, all alike.
    Uniform,
    /// By chance, the n-th flow 1/n^s as often as the first.
    Zipf(f64),
}

impl FromStr for Order {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "round-robin" => Ok(Self::RoundRobin),
            None if text == "uniform" => Ok(Self::Uniform),
            None if text == "zipf" => Ok(Self::Zipf(1.0)),
            Some(("zipf", exponent)) => match exponent.parse() {
                Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(Self::Zipf(exponent)),
                _ => Err(format!("{exponent:?} is no exponent between 0 and 10")),
            },
            _ => Err("choose round-robin, uniform, zipf, or zipf:EXPONENT such as zipf:1.1".to_owned()),
        }
    }
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Never 0, of which nothing comes.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    #[inline]
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

/// Flow after flow.
pub(crate) enum Flows {
    RoundRobin {
        next: u32,
        flows: u32,
    },
    Uniform {
        random: Random,
        flows: u32,
    },
    /// Drawn before the run: a draw costs a search.
    Drawn {
        draws: Box<[u32]>,
        at: usize,
    },
}

/// Draws that a Zipf order repeats.
const DRAWS: usize = 1 << 20;

impl Flows {
    pub(crate) fn new(order: Order, flows: u32, seed: u64) -> Self {
        match order {
            Order::RoundRobin => Self::RoundRobin { next: 0, flows },
            Order::Uniform => Self::Uniform { random: Random::new(seed), flows },
            Order::Zipf(exponent) => {
                let mut sum = 0.0;
                let sums: Vec<f64> = (1..=flows)
                    .map(|rank| {
                        sum += f64::from(rank).powf(-exponent);
                        sum
                    })
                    .collect();
                let mut random = Random::new(seed);
                let draw = |_| {
                    let point = f64::from(random.next()) / f64::from(u32::MAX) * sum;
                    sums.partition_point(|sum| *sum < point).min(flows as usize - 1) as u32
                };
                Self::Drawn { draws: (0..DRAWS).map(draw).collect(), at: 0 }
            }
        }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u32 {
        match self {
            Self::RoundRobin { next, flows } => {
                let flow = *next;
                *next = if flow + 1 == *flows { 0 } else { flow + 1 };
                flow
            }
            Self::Uniform { random, flows } => ((u64::from(random.next()) * u64::from(*flows)) >> 32) as u32,
            Self::Drawn { draws, at } => {
                let flow = draws[*at];
                *at = (*at + 1) % DRAWS;
                flow
            }
        }
    }
}

/// A share of all frames that have each size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes(pub(crate) Vec<(usize, u32)>);

/// The usual mix, its longest frame so that it fits the tunnel: 7 × 64, 4 × 594, 1 × 1464.
const IMIX: [(usize, u32); 3] = [(64, 7), (594, 4), (1464, 1)];
/// Frames after which a mix begins again.
const MOST_WEIGHT: u32 = 1000;

impl FromStr for Sizes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self(IMIX.to_vec()));
        }
        let part = |part: &str| {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let size: usize = size.parse().map_err(|_| format!("{size:?} is no size in bytes, nor imix"))?;
            let weight: u32 = weight.parse().map_err(|_| format!("{weight:?} is no weight"))?;
            let (shortest, longest) = (crate::frame::SHORTEST, crate::frame::LONGEST);
            if !(shortest..=longest).contains(&size) {
                return Err(format!("frames have {shortest} to {longest} bytes with their FCS, not {size}"));
            }
            Ok((size, weight))
        };
        let sizes: Vec<_> = text.split(',').map(part).collect::<Result<_, String>>()?;
        let sum: u64 = sizes.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if sizes.iter().any(|(_, weight)| *weight == 0) || sum > MOST_WEIGHT.into() {
            return Err(format!("weights are at least 1 each and at most {MOST_WEIGHT} together"));
        }
        Ok(Self(sizes))
    }
}

impl Sizes {
    /// The mean length, with FCS.
    pub(crate) fn mean(&self) -> f64 {
        let (bytes, frames) = self.0.iter().fold((0.0, 0.0), |(bytes, frames), (size, weight)| {
            (bytes + *size as f64 * f64::from(*weight), frames + f64::from(*weight))
        });
        bytes / frames
    }

    /// The place in the list of frame after frame, each size spread evenly.
    pub(crate) fn sequence(&self) -> Vec<u8> {
        let sum: u32 = self.0.iter().map(|(_, weight)| weight).sum();
        let mut owed = vec![0_i64; self.0.len()];
        let next = |_| {
            owed.iter_mut().zip(&self.0).for_each(|(owed, (_, weight))| *owed += i64::from(*weight));
            let most = (0..owed.len()).rev().max_by_key(|index| owed[*index]).unwrap_or(0);
            owed[most] -= i64::from(sum);
            most as u8
        };
        (0..sum).map(next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(order: Order, flows: u32, draws: usize) -> Vec<u32> {
        let mut order = Flows::new(order, flows, 1);
        let mut counts = vec![0; flows as usize];
        (0..draws).for_each(|_| counts[order.next() as usize] += 1);
        counts
    }

    #[test]
    fn round_robin_takes_each_in_turn() {
        let mut order = Flows::new(Order::RoundRobin, 3, 1);
        assert_eq!([(); 7].map(|()| order.next()), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(counts(Order::RoundRobin, 1, 5), [5]);
    }

    #[test]
    fn uniform_takes_all_alike() {
        let counts = counts(Order::Uniform, 100, 100_000);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_takes_the_first_most() {
        let counts = counts(Order::Zipf(1.0), 1000, 1 << 20);
        let share = |rank: usize| f64::from(counts[0]) / f64::from(counts[rank - 1]) / rank as f64;
        for rank in [2, 10, 100] {
            assert!((0.8..1.25).contains(&share(rank)), "rank {rank}: {}", share(rank));
        }
        assert!("zipf:0.5".parse() == Ok(Order::Zipf(0.5)));
        for wrong in ["zipf:", "zipf:-1", "zipf:nan", "zipf:11", "any", "", "uniform:1"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_mix_is_spread_evenly() {
        let sizes: Sizes = "imix".parse().unwrap();
        let sequence = sizes.sequence();
        assert_eq!(sequence.iter().filter(|class| **class == 0).count(), 7);
        assert_eq!(sequence.iter().filter(|class| **class == 1).count(), 4);
        assert_eq!(sequence.len(), 12);
        assert!(sequence.windows(3).any(|three| three == [0, 1, 0]), "{sequence:?}");
        assert!((sizes.mean() - (7.0 * 64.0 + 4.0 * 594.0 + 1464.0) / 12.0).abs() < 1e-9);
        for wrong in ["", "63", "9217", "64:0", "64:1001", "64:x", "64,,65", "64:600,65:401"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }
}
