//! Every state of a model and every step between them, and from which states
//! others can still be reached: backwards over the whole graph, since "it is
//! reached in the end" is not decided by looking forward along paths with cycles.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use stateright::Model;

pub(crate) struct Graph<S> {
    pub(crate) states: Vec<S>,
    /// Steps that count, from and to, by the numbers of the states.
    steps: Vec<(u32, u32)>,
}

impl<S: Clone + Eq + Hash> Graph<S> {
    /// Explores all states; keeps the steps that `counts` names.
    pub(crate) fn of<M: Model<State = S>>(
        model: &M,
        counts: impl Fn(&M::Action) -> bool,
    ) -> Graph<S> {
        let mut graph = Graph {
            states: Vec::new(),
            steps: Vec::new(),
        };
        let mut numbers = HashMap::new();
        for state in model.init_states() {
            graph.number(&mut numbers, state);
        }
        let mut actions = Vec::new();
        let mut next = 0;
        while next < graph.states.len() {
            let state = graph.states[next].clone();
            let from = u32::try_from(next).expect("few states");
            model.actions(&state, &mut actions);
            for action in actions.drain(..) {
                let counts = counts(&action);
                let Some(to) = model.next_state(&state, action) else {
                    continue;
                };
                let to = graph.number(&mut numbers, to);
                if counts && to != from {
                    graph.steps.push((from, to));
                }
            }
            next += 1;
        }
        graph
    }

    fn number(&mut self, numbers: &mut HashMap<S, u32>, state: S) -> u32 {
        match numbers.entry(state) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let number = u32::try_from(self.states.len()).expect("few states");
                self.states.push(new.key().clone());
                *new.insert(number)
            }
        }
    }

    /// The states from which no step that counts, and no row of them, leads to
    /// one that is `good`.
    pub(crate) fn stuck(&self, good: impl Fn(&S) -> bool) -> Vec<&S> {
        let mut before = vec![Vec::new(); self.states.len()];
        for (from, to) in &self.steps {
            before[*to as usize].push(*from);
        }
        let mut reaches: Vec<bool> = self.states.iter().map(good).collect();
        let numbers = 0..u32::try_from(self.states.len()).expect("few states");
        let mut open: Vec<u32> = numbers.filter(|at| reaches[*at as usize]).collect();
        while let Some(at) = open.pop() {
            for from in &before[at as usize] {
                if !std::mem::replace(&mut reaches[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        let states = self.states.iter().zip(reaches);
        states
            .filter_map(|(state, reaches)| (!reaches).then_some(state))
            .collect()
    }
}
