//! Who may not come in, as the partition of the schema keeps it. `scripts/bar.lua` says the same.

use super::{Now, Partition};
use crate::domain::{
    bar::{Bar, Barring, BarsThere, SAME_MS},
    roster::Control,
};

impl Partition {
    /// Bars are added, what is over is dropped, and a page of what holds is listed.
    pub fn bar(&mut self, at: &Now, barring: &Barring) -> BarsThere {
        let now = self.open(at);
        self.bars.retain(|_, (deadline, _)| *deadline > now);
        let mut refused = 0;
        let mut told = Vec::new();
        for bar in &barring.bars {
            let known = self.bars.get(&bar.whom).copied();
            if known.is_none() && self.bars.len() as u64 >= barring.most {
                refused += 1;
                continue;
            }
            let (deadline, until) = known.unwrap_or_default();
            let wanted = now + bar.remaining_ms;
            let is_later = wanted > if known.is_some() { deadline + SAME_MS } else { now };
            if !is_later && bar.until_ms <= until {
                continue;
            }
            let deadline = if is_later { wanted } else { deadline };
            if deadline <= now {
                continue;
            }
            let until_ms = bar.until_ms.max(until);
            self.bars.insert(bar.whom.clone(), (deadline, until_ms));
            told.push(Bar { whom: bar.whom.clone(), until_ms, remaining_ms: deadline - now });
        }
        if !told.is_empty() {
            self.told.control.push((None, Control::Barred { bars: told, said: barring.said.clone() }));
        }
        let (passed_over, most) = barring.page;
        let mut all: Vec<_> = self.bars.iter().map(|(whom, (deadline, until))| (*deadline, whom, *until)).collect();
        all.sort_by_key(|(deadline, whom, _)| std::cmp::Reverse((*deadline, whom.to_stored())));
        let page = all.into_iter().skip(usize::try_from(passed_over).unwrap_or(usize::MAX));
        let page = page.take(usize::try_from(most).unwrap_or(usize::MAX));
        let page =
            page.map(|(deadline, whom, until_ms)| Bar { whom: whom.clone(), until_ms, remaining_ms: deadline - now });
        let bars = page.collect();
        BarsThere { beat: self.beat(now), refused, count: self.bars.len() as u64, bars }
    }
}
