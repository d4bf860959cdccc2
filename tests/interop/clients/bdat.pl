# Sends one message in chunks with Perl's Net::SMTP, as told by environment and stdin: BINARYMIME,
# then BDAT for each SIZE octets, and the last one with what is left. What the server says at the end
# is printed; the exit status is 1 when it refused.
use strict;
use warnings;
use Net::SMTP;

binmode STDIN;
my $mail = do { local $/; <STDIN> };
my $smtp = Net::SMTP->new($ENV{HOST}, Port => $ENV{PORT}, Hello => "client.example.com", Timeout => 60)
    or die "no connection: $@";
my $sent = $smtp->mail("sender\@example.com", Bits => "binary")
    && $smtp->to("anna\@example.com");
while ($sent && length $mail > $ENV{SIZE}) {
    $sent = $smtp->bdat(substr $mail, 0, $ENV{SIZE}, "");
}
$sent &&= $smtp->bdatlast($mail);
print $smtp->message;
$smtp->quit;
exit($sent ? 0 : 1);
