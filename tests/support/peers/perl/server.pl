# The rpc/encoded service on SOAP::Lite: perl server.pl PORT
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use List::Util qw(reduce sum0);
use SOAP::Transport::HTTP;
use Staff;

package Reports;

sub report {
    my ($class, $title, $people) = @_;
    my $oldest = List::Util::reduce { $a->{since} lt $b->{since} ? $a : $b } @$people;
    my $payroll = sprintf '%.2f', List::Util::sum0(map { $_->{pay} } @$people);
    my $bytes = List::Util::sum0(map { length($_->{photo} // '') } @$people);
    return Staff::struct(report => 'Report',
        SOAP::Data->name('names')
            ->value([map { Staff::said(item => 'string', $_->{name}) } @$people]),
        Staff::said(payroll => 'decimal', $payroll),
        Staff::said(bytes => 'int', $bytes),
        Staff::person(oldest => $oldest),
        SOAP::Data->name('people')->value([map { Staff::person(item => $_) } @$people]));
}

package main;

SOAP::Transport::HTTP::Daemon->new(LocalAddr => '127.0.0.1', LocalPort => $ARGV[0], ReuseAddr => 1)
    ->dispatch_with({$Staff::NS => 'Reports'})->handle;
