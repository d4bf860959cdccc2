# Sends one message with Ruby's Net::SMTP, as told by a JSON object on stdin.
# What the server refuses is printed, and the exit status is 1.
require "json"
require "net/smtp"
require "openssl"

task = JSON.parse($stdin.read)
context = OpenSSL::SSL::SSLContext.new
context.set_params(ca_file: task["CA"], verify_mode: OpenSSL::SSL::VERIFY_PEER)

smtp = Net::SMTP.new(task["Host"], task["Port"])
smtp.open_timeout = smtp.read_timeout = 60
smtp.disable_starttls
smtp.enable_starttls(context) if task["Security"] == "starttls"
smtp.enable_tls(context) if task["Security"] == "tls"

mechanism = { "PLAIN" => :plain, "LOGIN" => :login, "CRAM-MD5" => :cram_md5 }[task["Mechanism"]]
login = mechanism ? [task["User"], task["Password"], mechanism] : []
begin
  smtp.start("client.example.com", *login) do |session|
    session.send_message(task["Mail"].unpack1("m"), task["Sender"], *task["Recipients"])
  end
rescue Net::ProtocolError => error
  puts error.message
  exit 1
end
