package testcluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"github.com/grimoire-build/grimoire/internal/testpki"
)

// ContextName is the name of the context in the kubeconfig.
const ContextName = "grimoire"

// subjects are those who have a certificate, by the name of its files. What Kubernetes lets each do goes by the names in it.
// Source: https://kubernetes.io/docs/setup/best-practices/certificates/
var subjects = map[string]testpki.Subject{
	"apiserver": {Name: "kube-apiserver", Hosts: []string{"127.0.0.1", "localhost", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", firstServiceIP, nodeIP}},
	"apiserver-kubelet":  {Name: "apiserver-kubelet", Organization: "system:masters"},
	"kubelet-server":     {Name: NodeName, Hosts: []string{NodeName, nodeIP, "127.0.0.1"}},
	"admin":              {Name: "admin", Organization: "system:masters"},
	"controller-manager": {Name: "system:kube-controller-manager"},
	"scheduler":          {Name: "system:kube-scheduler"},
	"kubelet":            {Name: "system:node:" + NodeName, Organization: "system:nodes"},
	"proxy":              {Name: "system:kube-proxy"},
}

// clients are the subjects that get a kubeconfig of their own.
var clients = []string{"admin", "controller-manager", "scheduler", "kubelet", "proxy"}

// writePKI writes the certificates and keys of a cluster into dir, and the kubeconfigs with server as the URL of its API server.
// It returns what makes the kubeconfig of an administrator for another URL.
func writePKI(dir, server string) (admin func(server string) []byte, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	authority, err := testpki.NewAuthority("grimoire-cluster")
	if err != nil {
		return nil, err
	}
	write := func(name string, data []byte) {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
	}
	write("ca.crt", authority.Certificate)
	certificates, keys := map[string][]byte{}, map[string][]byte{}
	for name, subject := range subjects {
		certificates[name], keys[name], err = authority.Issue(subject)
		write(name+".crt", certificates[name])
		write(name+".key", keys[name])
		if err != nil {
			return nil, err
		}
	}
	for _, name := range clients {
		write(name+".kubeconfig", kubeconfigOf(server, authority.Certificate, certificates[name], keys[name]))
	}
	signer, public, rsaErr := signingKey()
	if rsaErr != nil {
		return nil, rsaErr
	}
	write("service-account.key", signer)
	write("service-account.pub", public)
	return func(server string) []byte {
		return kubeconfigOf(server, authority.Certificate, certificates["admin"], keys["admin"])
	}, err
}

// signingKey makes the pair of keys for the tokens of service accounts.
func signingKey() (private, public []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	encoded, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: encoded}), nil
}

func kubeconfigOf(server string, authority, certificate, key []byte) []byte {
	text := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: %[1]s
contexts: [{name: %[1]s, context: {cluster: %[1]s, user: %[1]s}}]
clusters: [{name: %[1]s, cluster: {server: "%[2]s", certificate-authority-data: %[3]s}}]
users: [{name: %[1]s, user: {client-certificate-data: %[4]s, client-key-data: %[5]s}}]
`, ContextName, server, text(authority), text(certificate), text(key))
}
