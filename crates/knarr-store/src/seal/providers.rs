//! Encryption at rest as upstream's `EncryptionConfiguration` describes it: which resources are sealed by which keys. What is written with
//! upstream's API server is read here, and the other way round (upstream: `apiserver/pkg/storage/value/encrypt`).
//!
//! ```text
//!  k8s:enc:aesgcm:v1:key1:<nonce, text and tag>
//!          ────── provider    of several keys of that name each is tried
//! ```

use std::sync::Arc;

use aes_gcm::aead::{Aead, AeadInPlace, Payload};
use aes_gcm::aes::{Aes128, Aes192, Aes256};
use aes_gcm::{AesGcm, KeyInit, KeySizeUser};
use arc_swap::ArcSwap;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::consts::U12;
use cbc::cipher::{BlockCipher, BlockDecrypt, BlockDecryptMut, BlockEncrypt, BlockEncryptMut};
use crypto_secretbox::XSalsa20Poly1305;
use ring::rand::{SecureRandom, SystemRandom};

use super::{MARK, Sealer};
use crate::key::ResourceKey;

/// How a provider seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// AES-GCM, bound to the place where the object lies.
    AesGcm,
    /// AES-CBC with the padding of PKCS#7, which nothing authenticates.
    AesCbc,
    /// XSalsa20 with Poly1305, as NaCl has it.
    Secretbox,
}

impl Method {
    pub const ALL: [Self; 3] = [Self::AesGcm, Self::AesCbc, Self::Secretbox];

    /// As files and stored values have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::AesCbc => "aescbc",
            Self::Secretbox => "secretbox",
        }
    }

    /// How many bytes its keys may have.
    pub fn key_lengths(self) -> &'static [usize] {
        match self {
            Self::AesGcm | Self::AesCbc => &[16, 24, 32],
            Self::Secretbox => &[32],
        }
    }
}

/// A key with a name, by which what it has sealed is known.
struct Key {
    /// With colons around it.
    mark: String,
    cipher: Box<dyn Cipher>,
}

/// One provider of a rule.
pub enum Provider {
    /// Nothing is sealed.
    Identity,
    Keys(Keys),
}

/// Keys of one method: the first seals, all open.
pub struct Keys(Vec<Key>);

impl Keys {
    /// Takes names and secrets.
    ///
    /// # Errors
    /// The name of a key whose length is not one of [`Method::key_lengths`].
    pub fn new<'a>(method: Method, keys: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, String> {
        let key = |(name, secret): (&str, &[u8])| {
            let cipher = cipher(method, secret).ok_or_else(|| name.to_owned())?;
            Ok(Key { mark: format!("{MARK}{}:v1:{name}:", method.name()), cipher })
        };
        keys.into_iter().map(key).collect::<Result<_, String>>().map(Self)
    }
}

fn cipher(method: Method, secret: &[u8]) -> Option<Box<dyn Cipher>> {
    Some(match (method, secret.len()) {
        (Method::AesGcm, 16) => Box::new(AesGcm::<Aes128, U12>::new_from_slice(secret).ok()?),
        (Method::AesGcm, 24) => Box::new(AesGcm::<Aes192, U12>::new_from_slice(secret).ok()?),
        (Method::AesGcm, 32) => Box::new(AesGcm::<Aes256, U12>::new_from_slice(secret).ok()?),
        (Method::AesCbc, 16) => Box::new(Cbc(Aes128::new_from_slice(secret).ok()?)),
        (Method::AesCbc, 24) => Box::new(Cbc(Aes192::new_from_slice(secret).ok()?)),
        (Method::AesCbc, 32) => Box::new(Cbc(Aes256::new_from_slice(secret).ok()?)),
        (Method::Secretbox, 32) => Box::new(XSalsa20Poly1305::new_from_slice(secret).ok()?),
        _ => return None,
    })
}

/// Seals with a nonce of its own, which stands before the text.
trait Cipher: Send + Sync {
    fn nonce_bytes(&self) -> usize;
    fn seal(&self, nonce: &[u8], place: &[u8], bytes: &[u8]) -> Option<Vec<u8>>;
    fn open(&self, nonce: &[u8], place: &[u8], sealed: &[u8]) -> Option<Vec<u8>>;
}

impl<C> Cipher for AesGcm<C, U12>
where
    Self: AeadInPlace + Send + Sync,
{
    fn nonce_bytes(&self) -> usize {
        12
    }

    fn seal(&self, nonce: &[u8], place: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        self.encrypt(nonce.into(), Payload { msg: bytes, aad: place }).ok()
    }

    fn open(&self, nonce: &[u8], place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.decrypt(nonce.into(), Payload { msg: sealed, aad: place }).ok()
    }
}

impl Cipher for XSalsa20Poly1305 {
    fn nonce_bytes(&self) -> usize {
        Self::NONCE_SIZE
    }

    fn seal(&self, nonce: &[u8], _: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        self.encrypt(nonce.into(), bytes).ok()
    }

    fn open(&self, nonce: &[u8], _: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.decrypt(nonce.into(), sealed).ok()
    }
}

/// A block cipher, chained.
struct Cbc<B>(B);

impl<B> Cipher for Cbc<B>
where
    B: BlockCipher + BlockEncrypt + BlockDecrypt + KeySizeUser + Clone + Send + Sync,
    cbc::Encryptor<B>: cbc::cipher::InnerIvInit<Inner = B>,
    cbc::Decryptor<B>: cbc::cipher::InnerIvInit<Inner = B>,
{
    fn nonce_bytes(&self) -> usize {
        16
    }

    fn seal(&self, nonce: &[u8], _: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
        use cbc::cipher::InnerIvInit;
        let chain = cbc::Encryptor::<B>::inner_iv_slice_init(self.0.clone(), nonce).ok()?;
        Some(chain.encrypt_padded_vec_mut::<Pkcs7>(bytes))
    }

    fn open(&self, nonce: &[u8], _: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        use cbc::cipher::InnerIvInit;
        let chain = cbc::Decryptor::<B>::inner_iv_slice_init(self.0.clone(), nonce).ok()?;
        chain.decrypt_padded_vec_mut::<Pkcs7>(sealed).ok()
    }
}

/// What holds for a resource, for all of a group, or for all there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// `*` for all.
    pub group: String,
    /// `*` for all.
    pub resource: String,
}

impl Pattern {
    /// Reads `secrets`, `deployments.apps`, `*.apps`, `*.` (all of the core group) or `*.*` (upstream: `schema.ParseGroupResource`).
    pub fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self { group: group.to_owned(), resource: resource.to_owned() }
    }

    /// How narrow it is, if it holds for a resource: the narrowest decides.
    fn narrowness(&self, key: &ResourceKey) -> Option<u8> {
        match (self.group.as_str(), self.resource.as_str()) {
            ("*", "*") => Some(0),
            (group, "*") if group == key.group => Some(1),
            (group, resource) if group == key.group && resource == key.resource => Some(2),
            _ => None,
        }
    }
}

/// Rules that can be exchanged while objects are sealed and opened.
pub struct Rules {
    rules: ArcSwap<Vec<(Pattern, Arc<Vec<Provider>>)>>,
    /// Seals what no rule speaks of.
    otherwise: Option<Arc<dyn Sealer>>,
    random: SystemRandom,
}

impl Rules {
    /// Each pattern with its providers: the first seals, all open. `otherwise` has what no pattern names.
    pub fn new(rules: Vec<(Pattern, Arc<Vec<Provider>>)>, otherwise: Option<Arc<dyn Sealer>>) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), otherwise, random: SystemRandom::new() }
    }

    /// Others from now on.
    pub fn exchange(&self, rules: Vec<(Pattern, Arc<Vec<Provider>>)>) {
        self.rules.store(Arc::new(rules));
    }

    /// The providers for a resource, in the order of the file.
    fn providers(&self, resource: &ResourceKey) -> Vec<Arc<Vec<Provider>>> {
        let rules = self.rules.load();
        let narrowness = rules.iter().filter_map(|(pattern, _)| pattern.narrowness(resource)).max();
        rules.iter().filter(|(p, _)| narrowness.is_some() && p.narrowness(resource) == narrowness).map(|(_, providers)| providers.clone()).collect()
    }

    /// `None`: no rule speaks of the resource.
    fn first<T>(&self, resource: &ResourceKey, with: impl FnOnce(&Provider) -> T) -> Option<T> {
        self.providers(resource).iter().flat_map(|p| p.iter()).next().map(with)
    }
}

impl Sealer for Rules {
    fn seals(&self, resource: &ResourceKey) -> bool {
        let own = || self.otherwise.as_ref().is_some_and(|own| own.seals(resource));
        self.first(resource, |provider| matches!(provider, Provider::Keys(_))).unwrap_or_else(own)
    }

    fn takes_plain(&self, resource: &ResourceKey) -> bool {
        let providers = self.providers(resource);
        providers.is_empty() || providers.iter().flat_map(|p| p.iter()).any(|provider| matches!(provider, Provider::Identity))
    }

    fn seal(&self, resource: &ResourceKey, place: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.first(resource, |provider| match provider {
            Provider::Identity => None,
            Provider::Keys(Keys(keys)) => {
                let key = keys.first()?;
                let mut nonce = vec![0; key.cipher.nonce_bytes()];
                self.random.fill(&mut nonce).ok()?;
                let text = key.cipher.seal(&nonce, bound(resource, place).as_bytes(), bytes)?;
                Some([key.mark.as_bytes(), &nonce, &text].concat())
            }
        });
        sealed.unwrap_or_else(|| self.otherwise.as_ref()?.seal(resource, place, bytes))
    }

    fn open(&self, resource: &ResourceKey, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let providers = self.providers(resource);
        let keys = providers.iter().flat_map(|p| p.iter()).flat_map(|provider| match provider {
            Provider::Identity => &[][..],
            Provider::Keys(Keys(keys)) => keys,
        });
        let mut opened = keys.filter_map(|key| {
            let (nonce, text) = sealed.strip_prefix(key.mark.as_bytes())?.split_at_checked(key.cipher.nonce_bytes())?;
            key.cipher.open(nonce, bound(resource, place).as_bytes(), text)
        });
        // What was sealed before there were rules.
        opened.next().or_else(|| self.otherwise.as_ref()?.open(resource, place, sealed))
    }
}

/// To what a sealed value is bound: its key in etcd, as upstream has it. Other places are named below their resource.
fn bound(resource: &ResourceKey, place: &str) -> String {
    if place.starts_with('/') { place.to_owned() } else { format!("{}/{}/{place}", resource.group, resource.resource) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretSealer;

    const PLACE: &str = "/registry/secrets/default/a";

    fn secrets() -> ResourceKey {
        ResourceKey::new("", "secrets")
    }

    fn rules(text: &str) -> Vec<(Pattern, Arc<Vec<Provider>>)> {
        let provider = |word: &str| match word.split_once('/') {
            None => Provider::Identity,
            Some((method, key)) => {
                let method = Method::ALL.into_iter().find(|m| m.name() == method).unwrap();
                let (name, length) = key.split_once('/').unwrap();
                let secret = vec![name.as_bytes()[0]; length.parse().unwrap()];
                Provider::Keys(Keys::new(method, [(name, &secret[..])]).unwrap())
            }
        };
        let rule = |rule: &str| {
            let (pattern, providers) = rule.split_once('=').unwrap();
            (Pattern::parse(pattern), Arc::new(providers.split(',').map(provider).collect()))
        };
        text.split_whitespace().map(rule).collect()
    }

    fn sealer(text: &str) -> Rules {
        Rules::new(rules(text), None)
    }

    #[test]
    fn every_method_opens_what_it_has_sealed_and_nothing_else() {
        for (text, mark) in [
            ("secrets=aesgcm/a/16", "k8s:enc:aesgcm:v1:a:"),
            ("secrets=aesgcm/a/24", "k8s:enc:aesgcm:v1:a:"),
            ("secrets=aesgcm/a/32", "k8s:enc:aesgcm:v1:a:"),
            ("secrets=aescbc/a/16", "k8s:enc:aescbc:v1:a:"),
            ("secrets=aescbc/a/24", "k8s:enc:aescbc:v1:a:"),
            ("secrets=aescbc/a/32", "k8s:enc:aescbc:v1:a:"),
            ("secrets=secretbox/a/32", "k8s:enc:secretbox:v1:a:"),
        ] {
            let (one, other) = (sealer(text), sealer(&text.replace("/a/", "/b/")));
            let sealed = one.seal(&secrets(), PLACE, b"top secret").unwrap();
            assert!(sealed.starts_with(mark.as_bytes()) && !sealed.windows(10).any(|w| w == b"top secret"), "{text}");
            assert_eq!(one.open(&secrets(), PLACE, &sealed).as_deref(), Some(&b"top secret"[..]), "{text}");
            assert_ne!(one.seal(&secrets(), PLACE, b"top secret").unwrap(), sealed, "{text}: the nonce is new each time");
            assert_eq!(other.open(&secrets(), PLACE, &sealed), None, "{text}");
            assert_eq!(one.open(&secrets(), PLACE, &sealed[..mark.len() + 3]), None, "{text}");
            let elsewhere = one.open(&secrets(), "/registry/secrets/default/b", &sealed);
            assert_eq!(elsewhere.is_none(), text.contains("aesgcm"), "{text}");
        }
        assert!(Keys::new(Method::Secretbox, [("a", &[0; 16][..])]).is_err());
    }

    #[test]
    fn keys_give_way_to_others() {
        let old = sealer("secrets=aescbc/a/32").seal(&secrets(), PLACE, b"x").unwrap();
        let both = sealer("secrets=secretbox/b/32,aescbc/a/32");
        assert!(both.open(&secrets(), PLACE, &old).is_some());
        let new = both.seal(&secrets(), PLACE, b"x").unwrap();
        assert!(new.starts_with(b"k8s:enc:secretbox:v1:b:"));
        both.exchange(rules("secrets=secretbox/b/32"));
        assert!(both.open(&secrets(), PLACE, &old).is_none() && both.open(&secrets(), PLACE, &new).is_some());
        // Two keys of one name.
        let again = sealer("secrets=aesgcm/a/16,aesgcm/a/32");
        let by_second = sealer("secrets=aesgcm/a/32").seal(&secrets(), PLACE, b"x").unwrap();
        assert!(again.open(&secrets(), PLACE, &by_second).is_some());
    }

    #[test]
    fn the_narrowest_pattern_decides() {
        let rules = sealer("*.*=identity *.apps=aesgcm/a/32,identity deployments.apps=identity secrets=aescbc/a/32");
        let key = |text: &str| Pattern::parse(text);
        for (resource, seals, plain) in [
            ("secrets", true, false),
            ("pods", false, true),
            ("deployments.apps", false, true),
            ("replicasets.apps", true, true),
            ("widgets.example.com", false, true),
        ] {
            let Pattern { group, resource: name } = key(resource);
            let of = ResourceKey::new(&group, &name);
            assert_eq!((rules.seals(&of), rules.takes_plain(&of)), (seals, plain), "{resource}");
        }
    }

    #[test]
    fn what_no_rule_names_is_sealed_as_without_rules() {
        let own: Arc<dyn Sealer> = Arc::new(SecretSealer::new(&[&[1; 32]]).unwrap());
        let before = own.seal(&secrets(), PLACE, b"x").unwrap();
        let other = Rules::new(rules("configmaps=aesgcm/a/32"), Some(own.clone()));
        assert!(other.seals(&secrets()) && other.seals(&ResourceKey::new("", "configmaps")) && !other.seals(&ResourceKey::new("", "pods")));
        assert!(other.open(&secrets(), PLACE, &other.seal(&secrets(), PLACE, b"x").unwrap()).is_some());
        let named = Rules::new(rules("secrets=aesgcm/a/32"), Some(own));
        assert!(named.seal(&secrets(), PLACE, b"x").unwrap().starts_with(b"k8s:enc:aesgcm:"));
        assert!(named.open(&secrets(), PLACE, &before).is_some(), "sealed before there were rules");
    }

    /// Sealed by upstream's `storage/value/encrypt`, with keys of the byte 1 and the name `k`.
    #[test]
    fn what_upstream_has_sealed_is_opened() {
        for line in include_str!("testdata/upstream.txt").lines() {
            let mut words = line.split(' ');
            let (method, length, hex) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let method = Method::ALL.into_iter().find(|m| m.name() == method).unwrap();
            let keys = Keys::new(method, [("k", &vec![1; length.parse().unwrap()][..])]).unwrap();
            let rules = Rules::new(vec![(Pattern::parse("secrets"), Arc::new(vec![Provider::Keys(keys)]))], None);
            let sealed: Vec<u8> = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
            assert_eq!(rules.open(&secrets(), PLACE, &sealed).as_deref(), Some(&b"from upstream"[..]), "{line}");
        }
    }
}
