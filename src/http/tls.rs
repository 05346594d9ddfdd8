//! TLS on the listener: a certificate and its key from files, read again when the program is told to. Asks clients for no
//! certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs as suites, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::ServerSettings;

/// What the listener proves itself with.
pub struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files that the settings name; none where they name none.
    ///
    /// # Errors
    /// Names the setting whose file cannot be used.
    pub fn open(settings: &ServerSettings) -> Result<Option<Self>, String> {
        let (cert_file, key_file) = (settings.tls_cert_file.clone(), settings.tls_key_file.clone());
        if !settings.has_tls() {
            return Ok(None);
        }
        let config = RwLock::new(read(&cert_file, &key_file)?);
        Ok(Some(Self { cert_file, key_file, config }))
    }

    /// Reads the files again, for the connections to come.
    ///
    /// # Errors
    /// As [`open`](Self::open); then everything stays as it was.
    pub fn reload(&self) -> Result<(), String> {
        let config = read(&self.cert_file, &self.key_file)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// The client's.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }
}

/// TLS 1.2 and 1.3 with the suites that rustls holds for safe.
fn read(cert_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>, String> {
    let cert_fault = |why: &dyn std::fmt::Display| format!("server.tls_cert_file: {}: {why}", cert_file.display());
    let key_fault = |why: &dyn std::fmt::Display| format!("server.tls_key_file: {}: {why}", key_file.display());
    let chain = CertificateDer::pem_file_iter(cert_file).map_err(|error| cert_fault(&error))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| cert_fault(&error))?;
    if chain.is_empty() {
        return Err(cert_fault(&"it holds no certificate in PEM"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| key_fault(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(suites::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| key_fault(&error))?;
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InvalidCertificate(_) => cert_fault(&error),
        _ => key_fault(&error),
    })?;
    config.alpn_protocols = [b"h2".as_slice(), b"http/1.1"].map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// Shakes hands with a gateway whoever it is: for a look at its health, which tells it nothing.
///
/// # Errors
/// The gateway's.
pub async fn connect_to_anyone(stream: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
    let provider = Arc::new(suites::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Takes any certificate whose key the peer has.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
