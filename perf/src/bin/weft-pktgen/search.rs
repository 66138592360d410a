//! The highest rate that a device under test carries without loss: RFC 2544, section 26.1, by bisection.

/// How the search goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// The rate to begin with; none above it is tried.
    pub(crate) most: f64,
    /// How close the result is to be, as a share of `most`.
    pub(crate) resolution: f64,
    /// Trials that a rate has: it passes with the first that does.
    pub(crate) tries: u32,
}

/// How a trial went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The rate was carried.
    Passed,
    /// It was not.
    Failed,
    /// The operator wants the end.
    Stopped,
}

impl Search {
    /// Runs trials, which are given a rate; the highest rate that passed. The error is an early end, or that of a trial.
    pub(crate) fn run<E>(&self, mut trial: impl FnMut(f64) -> Result<Outcome, E>) -> Result<Found, E> {
        let (mut good, mut bad) = (None, self.most);
        let mut next = self.most;
        loop {
            match self.passes(next, &mut trial)? {
                Outcome::Stopped => return Ok(Found::Stopped),
                Outcome::Passed => good = Some(next),
                Outcome::Failed => bad = next,
            }
            let low = good.unwrap_or(0.0);
            if low >= bad || bad - low <= self.resolution * self.most {
                return Ok(good.map_or(Found::Nothing(bad), Found::Rate));
            }
            next = (low + bad) / 2.0;
        }
    }

    fn passes<E>(&self, rate: f64, trial: &mut impl FnMut(f64) -> Result<Outcome, E>) -> Result<Outcome, E> {
        for _ in 1..self.tries {
            let outcome = trial(rate)?;
            if outcome != Outcome::Failed {
                return Ok(outcome);
            }
        }
        trial(rate)
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Found {
    /// The highest rate that passed.
    Rate(f64),
    /// None passed; the lowest that was tried.
    Nothing(f64),
    /// The end came first.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn search(limit: f64, tries: u32) -> (Found, Vec<f64>) {
        let mut tried = Vec::new();
        let found = Search { most: 1000.0, resolution: 0.01, tries }.run(|rate| {
            tried.push(rate);
            Ok::<_, Infallible>(if rate <= limit { Outcome::Passed } else { Outcome::Failed })
        });
        let Ok(found) = found;
        (found, tried)
    }

    #[test]
    fn the_rate_is_found_within_the_resolution() {
        for limit in [15.0, 333.0, 500.0, 501.0, 989.0] {
            let (Found::Rate(rate), tried) = search(limit, 1) else { panic!("nothing found below {limit}") };
            assert!(rate <= limit && rate >= limit - 10.0, "{rate} found, {limit} is right");
            assert!(tried.len() <= 8, "{tried:?}");
        }
        assert_eq!(search(1000.0, 1), (Found::Rate(1000.0), vec![1000.0]));
    }

    #[test]
    fn where_nothing_passes_that_is_said() {
        let (found, tried) = search(0.0, 2);
        assert!(matches!(found, Found::Nothing(rate) if rate < 10.0));
        assert_eq!(tried[..2], [1000.0, 1000.0], "each rate has its tries");
    }

    #[test]
    fn one_good_try_is_enough() {
        let mut count = 0;
        let found = Search { most: 100.0, resolution: 0.5, tries: 3 }.run(|_| {
            count += 1;
            Ok::<_, Infallible>(if count == 3 { Outcome::Passed } else { Outcome::Failed })
        });
        assert_eq!(found, Ok(Found::Rate(100.0)));
    }

    #[test]
    fn it_ends_when_asked_to() {
        let search = Search { most: 100.0, resolution: 0.5, tries: 3 };
        assert_eq!(search.run(|_| Ok::<_, Infallible>(Outcome::Stopped)), Ok(Found::Stopped));
        assert_eq!(search.run(|_| Err("broken")), Err("broken"));
    }
}
