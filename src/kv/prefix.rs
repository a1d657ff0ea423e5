//! Prefixes that sessions of one model share: a tree of tiles, each of them the keys and values of 128
//! tokens in all layers. A tile is found by its tokens and by the tile before it, so by all tokens from
//! the first one on; hashes decide nothing. Only what an exact cache holds comes here: keys and values
//! depend on every token before, and a cache that has evicted one computes others.
//!
//! A tile lives as long as the [`Chain`] of a session has it.

use crate::backend::KvType;
use crate::base::error::{Result, err};
use crate::base::shared::Shared;
use crate::base::sync::{Mutex, MutexGuard, PoisonError};

/// What keys and values depend on beside the tokens and the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What keys are stored as.
    pub k_type: KvType,
    /// What values are stored as.
    pub v_type: KvType,
}

/// What the first tile of a sequence follows.
const ROOT: u64 = 0;

/// A tile of the tree.
struct Node<T> {
    /// By which the tiles after it are found; no two are ever alike.
    id: u64,
    parent: u64,
    kind: Kind,
    tokens: Vec<i32>,
    /// Of each layer that attends to everything, in their order.
    tiles: Vec<T>,
    /// Chains that have it.
    n_owners: usize,
}

struct Nodes<T> {
    all: Vec<Node<T>>,
    last_id: u64,
}

/// The tree of one model. Can be used from any thread.
pub struct Prefixes<T> {
    nodes: Mutex<Nodes<T>>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Prefixes { nodes: Mutex::new(Nodes { all: Vec::new(), last_id: ROOT }) }
    }
}

impl<T> Prefixes<T> {
    fn lock(&self) -> MutexGuard<'_, Nodes<T>> {
        // A node is complete before it is pushed, and counts change in one step.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, id: u64) {
        let mut nodes = self.lock();
        let Some(at) = nodes.all.iter().position(|node| node.id == id) else { return };
        nodes.all[at].n_owners -= 1;
        if nodes.all[at].n_owners == 0 {
            let gone = nodes.all.swap_remove(at);
            drop(nodes);
            drop(gone); // which may take a while
        }
    }
}

/// The first tiles of one sequence, as far as other sessions can find them.
pub struct Chain<T> {
    prefixes: Shared<Prefixes<T>>,
    kind: Kind,
    /// Of its tiles in the tree.
    ids: Vec<u64>,
}

impl<T> Chain<T> {
    /// No tile yet; there can be `n_tiles`. Fails with `OutOfMemory`.
    pub fn new(prefixes: &Shared<Prefixes<T>>, kind: Kind, n_tiles: usize) -> Result<Chain<T>> {
        let mut ids = Vec::new();
        ids.try_reserve_exact(n_tiles)
            .map_err(|_| err!(OutOfMemory, "KV cache: no memory for {n_tiles} shared tiles"))?;
        Ok(Chain { prefixes: Shared::clone(prefixes), kind, ids })
    }

    /// Tiles that it has.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn parent(&self) -> u64 {
        self.ids.last().copied().unwrap_or(ROOT)
    }

    /// Takes the tile with these tokens that follows its last one, if a session has it: `f` is given that
    /// of each layer. Says whether there was one.
    pub fn take(&mut self, tokens: &[i32], f: impl FnOnce(&[T])) -> bool {
        let mut nodes = self.prefixes.lock();
        let found = nodes.find(self.kind, self.parent(), tokens).filter(|_| self.has_room());
        if let Some(node) = found {
            node.n_owners += 1;
            f(&node.tiles);
            self.ids.push(node.id);
            return true;
        }
        false
    }

    /// Adds a tile after its last one, for others to take. Fails with `OutOfMemory`, and nothing has
    /// changed then.
    pub fn give(&mut self, tokens: &[i32], tiles: Vec<T>) -> Result<()> {
        let no_memory = |_| err!(OutOfMemory, "KV cache: no memory for one more shared tile");
        let mut own = Vec::new();
        own.try_reserve_exact(tokens.len()).map_err(no_memory)?;
        own.extend_from_slice(tokens);
        let parent = self.parent();
        let mut nodes = self.prefixes.lock();
        nodes.all.try_reserve(1).map_err(no_memory)?;
        if !self.has_room() {
            return Err(err!(Internal, "KV cache: more tiles are shared than there are"));
        }
        let id = nodes.last_id + 1;
        nodes.last_id = id;
        nodes.all.push(Node { id, parent, kind: self.kind, tokens: own, tiles, n_owners: 1 });
        self.ids.push(id);
        Ok(())
    }

    /// Becomes the first `n` tiles of another chain of the same tree; it has to be empty.
    pub fn share(&mut self, other: &Chain<T>, n: usize) {
        let mut nodes = self.prefixes.lock();
        for &id in other.ids.iter().take(n) {
            let node = nodes.all.iter_mut().find(|node| node.id == id);
            let Some(node) = node.filter(|_| self.has_room()) else { return };
            node.n_owners += 1;
            self.ids.push(id);
        }
    }

    /// Lets go of all tiles but the first `n`.
    pub fn truncate(&mut self, n: usize) {
        while self.ids.len() > n {
            if let Some(id) = self.ids.pop() {
                self.prefixes.release(id);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.ids.len() < self.ids.capacity()
    }
}

impl<T> Drop for Chain<T> {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

impl<T> Nodes<T> {
    fn find(&mut self, kind: Kind, parent: u64, tokens: &[i32]) -> Option<&mut Node<T>> {
        let is_it = |node: &&mut Node<T>| {
            node.parent == parent && node.kind == kind && node.tokens == tokens
        };
        self.all.iter_mut().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { k_type: KvType::F16, v_type: KvType::F16 };

    fn chain<T>(tree: &Shared<Prefixes<T>>) -> Chain<T> {
        Chain::new(tree, KIND, 8).unwrap()
    }

    /// The tiles that a new chain finds for these tokens, two by two.
    fn found(chain: &mut Chain<u32>, tokens: &[i32]) -> Vec<u32> {
        let mut all = Vec::new();
        for tokens in tokens.chunks(2) {
            if !chain.take(tokens, |tiles| all.extend(tiles)) {
                break;
            }
        }
        all
    }

    #[test]
    fn a_tile_is_found_by_all_tokens_before_it() {
        let tree = Shared::new(Prefixes::default()).unwrap();
        let (mut a, mut b) = (chain(&tree), chain(&tree));
        for (chain, tiles) in
            [(&mut a, [([1, 2], 10), ([3, 4], 20)]), (&mut b, [([5, 6], 30), ([3, 4], 40)])]
        {
            for (tokens, tile) in tiles {
                chain.give(&tokens, vec![tile]).unwrap();
            }
        }
        assert_eq!(found(&mut chain(&tree), &[1, 2, 3, 4, 5, 6]), [10, 20]);
        assert_eq!(found(&mut chain(&tree), &[5, 6, 3, 4]), [30, 40], "the same tokens, elsewhere");
        assert_eq!(found(&mut chain(&tree), &[3, 4]), []);
        assert_eq!(found(&mut chain(&tree), &[1]), []);
        let other = Kind { k_type: KvType::Q8_0, ..KIND };
        assert_eq!(found(&mut Chain::new(&tree, other, 8).unwrap(), &[1, 2]), []);
    }

    #[test]
    fn a_tile_that_nobody_has_is_gone() {
        let tree = Shared::new(Prefixes::default()).unwrap();
        let mut first = chain(&tree);
        first.give(&[1, 2], vec![10]).unwrap();
        first.give(&[3, 4], vec![20]).unwrap();
        let mut second = chain(&tree);
        assert_eq!(found(&mut second, &[1, 2]), [10]);
        let mut third = chain(&tree);
        third.share(&first, 2);
        drop(first);
        assert_eq!(found(&mut chain(&tree), &[1, 2, 3, 4]), [10, 20], "the third has both");
        third.truncate(1);
        assert_eq!(found(&mut chain(&tree), &[1, 2, 3, 4]), [10]);
        drop((second, third));
        assert!(tree.lock().all.is_empty());
        let mut again = chain(&tree);
        again.give(&[1, 2], vec![11]).unwrap();
        assert_eq!(found(&mut chain(&tree), &[1, 2]), [11]);
    }

    #[test]
    fn there_are_no_more_tiles_than_there_can_be() {
        let tree = Shared::new(Prefixes::<u32>::default()).unwrap();
        let mut one = Chain::new(&tree, KIND, 1).unwrap();
        let most = one.ids.capacity() as i32;
        (0..most).for_each(|i| one.give(&[i], vec![1]).unwrap());
        assert!(one.give(&[most], vec![1]).is_err() && !one.is_empty());
        assert_eq!(one.len(), most as usize);
    }
}
