// Sends one message with nodemailer, as told by a JSON object on stdin.
// What the server refuses is printed, and the exit status is 1.
"use strict";
const fs = require("node:fs");
const nodemailer = require("nodemailer");

const task = JSON.parse(fs.readFileSync(0, "utf8"));
const options = {
  host: task.Host,
  port: task.Port,
  name: "client.example.com",
  secure: task.Security === "tls",
  requireTLS: task.Security === "starttls",
  ignoreTLS: task.Security === "plain",
  tls: { ca: fs.readFileSync(task.CA) },
};
if (task.Mechanism === "XOAUTH2") {
  options.auth = { type: "OAuth2", user: task.User, accessToken: task.Password };
} else if (task.Mechanism) {
  options.auth = { user: task.User, pass: task.Password };
  options.authMethod = task.Mechanism;
}
const transport = nodemailer.createTransport(options);
transport
  .sendMail({
    envelope: { from: task.Sender, to: task.Recipients },
    raw: Buffer.from(task.Mail, "base64"),
  })
  .catch((error) => {
    console.log(error.message);
    process.exitCode = 1;
  })
  .finally(() => transport.close());
