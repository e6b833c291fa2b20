# Asks a hosted rpc/encoded service, with SOAP::Lite, and prints its account as JSON:
# perl client.pl staff WSDL-URL 1.1
use strict;
use warnings;
use utf8;
use FindBin;
use lib $FindBin::Bin;
use JSON::PP;
use SOAP::Lite;
use Staff;

my (undef, $wsdl) = @ARGV;
my $operation = SOAP::Schema->new->schema_url($wsdl)->parse->services->{StaffService}{report};
my $soap = SOAP::Lite->proxy($operation->{endpoint}->value)->ns($Staff::NS, 'staff')
    ->on_action(sub { $operation->{soapaction}->value })
    ->on_fault(sub { die ref $_[1] ? $_[1]->faultstring : $_[0]->transport->status });

my $boss = {name => 'Chief', pay => '99.99', since => '1999-12-31T23:59:59Z',
    photo => "\x00\x01\xfe\xff"};
my @people = (
    {name => 'Bö', pay => '10.50', since => '2001-02-03T04:05:06Z', manager => $boss},
    {name => 'Al', pay => '0.01', since => '2001-02-03T04:05:06Z', manager => $boss},
    $boss,
);
my $report = $soap->call('report', Staff::said(title => 'string', 'all'),
    SOAP::Data->name('people')->value([map { Staff::person(item => $_) } @people]))->result;

sub photo { defined $_[0]{photo} ? unpack('H*', $_[0]{photo}) : undef }

print JSON::PP->new->utf8->encode({
    names => $report->{names},
    payroll => $report->{payroll},
    bytes => $report->{bytes} + 0,
    oldest => join(' ', @{$report->{oldest}}{qw(name pay since)}, photo($report->{oldest})),
    managers => [map { $_->{manager} && $_->{manager}{name} } @{$report->{people}}],
    photos => [map { photo($_) } @{$report->{people}}],
});
