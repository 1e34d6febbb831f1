//! Signed tokens in compact form, and the keys that check them (RFC 7515, 7517, 7518).
//!
//! ES512 is missing: no crate at hand speaks P-521.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_core::{Value, ValueExt};
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

/// Algorithms that issuers may sign with.
pub const ALGORITHMS: [&str; 8] = ["ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// A token taken apart. Nothing of it is to be believed yet.
pub struct Jws<'t> {
    pub algorithm: String,
    pub key_id: String,
    signed: &'t str,
    signature: Vec<u8>,
    pub claims: Value,
}

impl<'t> Jws<'t> {
    /// `None` for what is no signed token.
    pub fn parse(token: &'t str) -> Option<Self> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        // Extensions that must be understood: we understand none.
        if header.at(&["crit"]).is_some() {
            return None;
        }
        let text = |key: &str| header.str_at(&[key]).unwrap_or_default().to_owned();
        let claims: Value = serde_json::from_slice(&decode(payload)?).ok()?;
        claims.is_object().then_some(Self { algorithm: text("alg"), key_id: text("kid"), signed, signature: decode(signature)?, claims })
    }

    /// Who claims to have issued it. Google left the scheme away once.
    pub fn issuer(&self) -> &str {
        match self.claims.str_at(&["iss"]).unwrap_or_default() {
            "accounts.google.com" => "https://accounts.google.com",
            issuer => issuer,
        }
    }
}

#[derive(Clone, Debug)]
enum Material {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    P256(Vec<u8>),
    P384(Vec<u8>),
}

/// A public key of an issuer.
#[derive(Clone, Debug)]
pub struct Jwk {
    id: String,
    /// The only algorithm that it is for, if it names one.
    algorithm: String,
    material: Material,
}

impl Jwk {
    /// Reads a key. `None` for one that is not for signatures, or of a kind that we do not know.
    pub fn from_value(key: &Value) -> Option<Self> {
        let text = |name: &str| key.str_at(&[name]).unwrap_or_default();
        let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name).trim_end_matches('=')).ok().filter(|n| !n.is_empty());
        if text("use") == "enc" {
            return None;
        }
        let point = |size: usize| {
            let mut point = vec![4];
            for coordinate in [number("x")?, number("y")?] {
                point.extend(vec![0; size.checked_sub(coordinate.len())?]);
                point.extend(coordinate);
            }
            Some(point)
        };
        let material = match (text("kty"), text("crv")) {
            ("RSA", _) => Material::Rsa(RsaPublicKeyComponents { n: number("n")?, e: number("e")? }),
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Self { id: text("kid").to_owned(), algorithm: text("alg").to_owned(), material })
    }

    /// Whether this key has signed the token. A token that names no key may be of any.
    pub fn has_signed(&self, token: &Jws<'_>) -> bool {
        (token.key_id.is_empty() || token.key_id == self.id) && self.fits(token)
    }

    /// The same, whichever key the token names.
    pub fn fits(&self, token: &Jws<'_>) -> bool {
        let meant = self.algorithm.is_empty() || self.algorithm == token.algorithm;
        let message = token.signed.as_bytes();
        let ec = |point: &[u8], algorithm| UnparsedPublicKey::new(algorithm, point).verify(message, &token.signature).is_ok();
        meant
            && match (&self.material, token.algorithm.as_str()) {
                (Material::P256(point), "ES256") => ec(point, &signature::ECDSA_P256_SHA256_FIXED),
                (Material::P384(point), "ES384") => ec(point, &signature::ECDSA_P384_SHA384_FIXED),
                (Material::Rsa(key), algorithm) => rsa(algorithm).is_some_and(|p| key.verify(p, message, &token.signature).is_ok()),
                _ => false,
            }
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use knarr_core::json;
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };

    pub fn encode(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// A P-256 key of a test's issuer.
    pub struct Signer(EcdsaKeyPair, SystemRandom, &'static str);

    impl Signer {
        pub fn new(id: &'static str) -> Self {
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap(), random, id)
        }

        pub fn jwk(&self) -> Value {
            let point = self.0.public_key().as_ref();
            json!({"kty": "EC", "crv": "P-256", "kid": self.2, "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])})
        }

        pub fn sign(&self, claims: &Value) -> String {
            let text = format!("{}.{}", encode(&json!({"alg": "ES256", "kid": self.2})), encode(claims));
            let signature = self.0.sign(&self.1, text.as_bytes()).unwrap();
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }

    #[test]
    fn a_signature_holds_for_its_key_and_its_text_only() {
        let (one, other) = (Signer::new("1"), Signer::new("2"));
        let token = one.sign(&json!({"iss": "accounts.google.com"}));
        let parsed = Jws::parse(&token).unwrap();
        assert_eq!(parsed.issuer(), "https://accounts.google.com");
        let key = |signer: &Signer| Jwk::from_value(&signer.jwk()).unwrap();
        assert!(key(&one).has_signed(&parsed) && !key(&other).has_signed(&parsed));
        let changed = token.replace(&encode(&json!({"iss": "accounts.google.com"})), &encode(&json!({"iss": "https://evil.example"})));
        assert!(!key(&one).has_signed(&Jws::parse(&changed).unwrap()));
        // Without a signature, or with another algorithm than the key's.
        let none = format!("{}.{}.", encode(&json!({"alg": "none"})), encode(&json!({"iss": "x"})));
        assert!(!key(&one).has_signed(&Jws::parse(&none).unwrap()));
        let mut fixed = one.jwk();
        fixed.set(&["alg"], "ES384");
        assert!(!Jwk::from_value(&fixed).unwrap().has_signed(&parsed));
    }

    /// Made by another program with a key that has been thrown away.
    const RSA_MODULUS: &str = "3YjAxTZw0wo3J6FKX9-0UdGJi162VNVFzns53Cf_TV0JGcf3HjtJuJo5GCot2z08agebEsHcbNnnt843bRfrIfTxktjDPpYSmFaWtz26m0lsd8e3uDnI8P1O\
         dJ25-I-BSaOVpP2i2BZeoKqejHMon2NkPVZZiM_N_H_gUhFDeabKVMc5WhGutY6UHPrqNjT7nAbL6xAXym5stFzCYwCV5Hnky2DbOWRIZv80hzaXfLW09dYJ\
         OxMdDoakxYclOikzPiYFxZNGpA-1C5NQQwSQY-l7BDZneEq4C5iUppFtMo02P3tXr-Rs_8-2cAIw6wkEwoEJJaL9tuoFvus1bLW-_w";
    const RSA_TOKENS: [&str; 2] = [
        "eyJhbGciOiJSUzI1NiJ9.e30.utgCkeFpxY7atJt7ppliYZCKXhz8ir1Z0jTGIWGRKs7Ht61-bf9Ny9hrs6lqSXns_S6V96D-w509nfLRmn3r1HHpCImrHAM\
         VqBS3MK2OG31mMfjNoiYE97DLuBA-43ZM59wIeQtLcJ7xxKbiUXStDZlriztxoVaIkUZYJ6fvT0RLWbMA5OzRfNk_wmCs6An7omTy4pAKT5kto5IMhcv3u1p\
         bm5Kja39K09YD6ZzoUnKMEP_qbtcj371ysZxFtzRXwWJtrgxJO559G-KKDXXMSxQ63eDP6FJiLv4sxFszSqOTXQGW3OQjUG-seJSYWd_D8npaKt-LwO_MRzm\
         sAB39Tw",
        "eyJhbGciOiJQUzM4NCJ9.e30.S1Ytp2d1cK8jz_4NV60nSdfg6GsQCxO8qOzzJczlVb3kbuV5w2ph8_NEhjTfLuwcutlfVrZTWnGiS6Qo7cdNAq7rDHvTaIq\
         -eZeHhgzCzOwXVWNmn3PJr2y95legRFiyrAHdctcO81oVZk7u0RgIthu1x8bQVWE2RAcKo34AXPdaD1YGYQHwZo00qmrQWWlSAf8ieGL7n2kovXC7l8CV9nl\
         nWYSoUnri2OT2MZN8B6nNH-J7HEoEVMUEf0eDmG3FNfbzZDd-Lgfyk_rTQaM51kBhtjG8Pw1rTpSYLjYdCbcuWuuTL7WgTYRve8tEvoPgwuuCpu0WCPcLFIf\
         kayjwRg",
    ];

    #[test]
    fn rsa_keys_check_both_paddings() {
        let key = Jwk::from_value(&json!({"kty": "RSA", "use": "sig", "n": RSA_MODULUS, "e": "AQAB"})).unwrap();
        for (token, algorithm) in RSA_TOKENS.into_iter().zip(["RS256", "PS384"]) {
            let parsed = Jws::parse(token).unwrap();
            assert!(parsed.algorithm == algorithm && key.has_signed(&parsed), "{algorithm}");
            let longer = token.replacen("e30", "eyJhIjoxfQ", 1);
            assert!(!key.has_signed(&Jws::parse(&longer).unwrap()));
        }
    }

    #[test]
    fn what_is_no_token_is_none() {
        for text in ["", "a.b", "a.b.c", "e30.e30", "e30.W10.", "{}"] {
            assert!(Jws::parse(text).is_none(), "{text}");
        }
        assert!(Jwk::from_value(&json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"})).is_none());
        assert!(Jwk::from_value(&json!({"kty": "oct", "k": "AA"})).is_none());
    }
}
