//! Signatures, without the arithmetic: an order is signed by a key if it was signed with it, and nobody else can.
//!
//! The texts have the real format, so that whoever reads them unverified reads the same.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tenon_order::{KeyId, ModuleKey, Order, PublicKey, Wish};

/// A key, by number.
pub type Key = u8;

/// The id by which a key is known.
pub fn id(key: Key) -> KeyId {
    PublicKey::from_bytes([key; 32]).id()
}

/// All orders that were ever signed.
#[derive(Debug, Default)]
pub struct Seals {
    orders: HashMap<String, Sealed>,
    /// The simulated time.
    pub now: u64,
}

#[derive(Debug)]
struct Sealed {
    key: Key,
    order: Rc<Order>,
    at: u64,
    decided: BTreeMap<ModuleKey, usize>,
}

impl Seals {
    /// The order's signed text. Who signs knew so many of the changes of pods; `former` is the order in whose place it comes.
    pub fn sign(&mut self, order: &Order, key: Key, pods: usize, former: Option<&str>) -> String {
        let former = former.and_then(|text| self.orders.get(text));
        let since = |key: &ModuleKey, wish: &Wish| {
            let same = former.filter(|former| former.order.wish(key) == Some(wish));
            same.and_then(|former| former.decided.get(key).copied()).unwrap_or(pods)
        };
        let decided =
            order.modules.iter().map(|module| (module.key.clone(), since(&module.key, &module.wish)));
        let decided = decided.collect();
        let mut order = order.clone();
        order.modules.sort_by(|a, b| a.key.cmp(&b.key));
        // An order is plain data; it cannot fail to become JSON.
        let payload = serde_json::to_vec(&order).unwrap_or_default();
        let text = format!("tenon-order-v1.{}.{}.c2lnbmVk", URL_SAFE_NO_PAD.encode(payload), id(key));
        let at = self.now;
        self.orders.entry(text.clone()).or_insert_with(|| Sealed { key, order: Rc::new(order), at, decided });
        text
    }

    /// The order, if one of these keys signed it.
    pub fn verify(&self, text: &str, keys: &[Key]) -> Option<Rc<Order>> {
        let sealed = self.orders.get(text)?;
        keys.contains(&sealed.key).then(|| sealed.order.clone())
    }

    /// The order, whoever signed it.
    pub fn read(&self, text: &str) -> Option<Rc<Order>> {
        self.orders.get(text).map(|sealed| sealed.order.clone())
    }

    /// How many changes of pods were known to who decided what the order wishes of a Module.
    pub fn decided(&self, text: &str, module: &ModuleKey) -> Option<usize> {
        self.orders.get(text)?.decided.get(module).copied()
    }

    /// When an order was signed first.
    pub fn signed_at(&self, text: &str) -> Option<u64> {
        self.orders.get(text).map(|sealed| sealed.at)
    }
}
