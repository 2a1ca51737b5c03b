package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// loadTLS reads GRPC_TLS_CERT, GRPC_TLS_KEY and GRPC_TLS_CLIENT_CA, each a
// file's name or, as a secret holds it, the PEM itself. Without a certificate
// the facade speaks plain text, and nil is returned.
func loadTLS(cert, key, clientCA string) (*tls.Config, error) {
	if cert == "" && key == "" && clientCA == "" {
		return nil, nil
	}
	if cert == "" || key == "" {
		return nil, errors.New("TLS needs both GRPC_TLS_CERT and GRPC_TLS_KEY")
	}
	certPEM, err := readPEM("GRPC_TLS_CERT", cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPEM("GRPC_TLS_KEY", key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("GRPC_TLS_CERT and GRPC_TLS_KEY: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if clientCA == "" {
		return config, nil
	}
	caPEM, err := readPEM("GRPC_TLS_CLIENT_CA", clientCA)
	if err != nil {
		return nil, err
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("GRPC_TLS_CLIENT_CA holds no certificate")
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}

func readPEM(name, value string) ([]byte, error) {
	if strings.HasPrefix(value, "-----BEGIN") {
		return []byte(value), nil
	}
	content, err := os.ReadFile(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return content, nil
}
