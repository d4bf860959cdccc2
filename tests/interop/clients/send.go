// Sends one message with Go's own net/smtp, as told by a JSON object on stdin.
// What the server refuses is printed, and the exit status is 1.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/smtp"
	"os"
)

type task struct {
	Host, Security, CA, Sender, Mechanism, User, Password string
	Port                                                  int
	Recipients                                            []string
	Mail                                                  []byte
}

func trust(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", file)
	}
	return pool, nil
}

func dial(t task) (*smtp.Client, error) {
	address := fmt.Sprintf("%s:%d", t.Host, t.Port)
	if t.Security == "plain" {
		return smtp.Dial(address)
	}
	pool, err := trust(t.CA)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{RootCAs: pool, ServerName: t.Host}
	if t.Security == "tls" {
		connection, err := tls.Dial("tcp", address, config)
		if err != nil {
			return nil, err
		}
		return smtp.NewClient(connection, t.Host)
	}
	client, err := smtp.Dial(address)
	if err != nil {
		return nil, err
	}
	return client, client.StartTLS(config)
}

func login(t task, client *smtp.Client) error {
	switch t.Mechanism {
	case "":
		return nil
	case "PLAIN":
		return client.Auth(smtp.PlainAuth("", t.User, t.Password, t.Host))
	case "CRAM-MD5":
		return client.Auth(smtp.CRAMMD5Auth(t.User, t.Password))
	}
	return fmt.Errorf("no such mechanism here: %s", t.Mechanism)
}

func send(t task) error {
	client, err := dial(t)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := login(t, client); err != nil {
		return err
	}
	if err := client.Mail(t.Sender); err != nil {
		return err
	}
	for _, recipient := range t.Recipients {
		if err := client.Rcpt(recipient); err != nil {
			return err
		}
	}
	writer, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := writer.Write(t.Mail); err != nil {
		return err
	}
	if err := writer.Close(); err != nil {
		return err
	}
	return client.Quit()
}

func main() {
	var t task
	err := json.NewDecoder(os.Stdin).Decode(&t)
	if err == nil {
		err = send(t)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
