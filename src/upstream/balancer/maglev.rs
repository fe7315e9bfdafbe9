//! Maglev: a table of fixed size in which endpoints take places in turns, each in an order of its
//! own (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Shares are exact to a place, and a lookup is one step. When an endpoint goes, some keys of
//! others move as well, about a hundredth of them.

use super::{
    hash::nth,
    table::{Member, heaviest},
};

/// A prime, so that every step leads through all places. Fixed: another size moves all keys.
const PLACES: u64 = 65_537;

/// The position of an endpoint for each place.
#[derive(Debug)]
pub(super) struct Maglev(Vec<u32>);

/// One endpoint's order of places, and how far it has come.
struct Turns {
    index: u32,
    weight: u64,
    /// A turn costs what the heaviest endpoint has in each round.
    credit: u64,
    next: u64,
    step: u64,
}

impl Maglev {
    pub(super) fn new(members: &[Member]) -> Self {
        if members.is_empty() {
            return Self(Vec::new());
        }
        let heaviest = heaviest(members);
        let mut turns: Vec<Turns> = members
            .iter()
            .map(|member| Turns {
                index: member.index,
                weight: u64::from(member.weight),
                // Enough for a turn in the first round: the lightest has a place too.
                credit: heaviest - u64::from(member.weight),
                next: nth(member.hash, 0) % PLACES,
                step: nth(member.hash, 1) % (PLACES - 1) + 1,
            })
            .collect();
        let mut places = vec![None; PLACES as usize];
        let mut free = PLACES;
        'rounds: loop {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                while places[turn.next as usize].is_some() {
                    turn.next = (turn.next + turn.step) % PLACES;
                }
                places[turn.next as usize] = Some(turn.index);
                free -= 1;
                if free == 0 {
                    break 'rounds;
                }
            }
        }
        Self(places.into_iter().flatten().collect())
    }

    /// Who owns a key, then the owners of the places behind it: as good as drawn by lot, so that
    /// what an endpoint can't take is spread over all others.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let at = (key % PLACES) as usize;
        let (before, after) = self.0.split_at(at.min(self.0.len()));
        after.iter().chain(before).map(|&index| index as usize)
    }
}
