# The types of the rpc/encoded service for SOAP::Lite, which goes by the looks of values unless told.
package Staff;
use strict;
use warnings;
use SOAP::Lite;

our $NS = 'urn:example:staff';

sub said {
    my ($name, $type, $value) = @_;
    return SOAP::Data->name($name)->value(undef) unless defined $value;
    return SOAP::Data->name($name)->type($type)->value($value);
}

sub struct {
    my ($name, $type, @accessors) = @_;
    return SOAP::Data->name($name)->attr({'xmlns:s' => $NS})->type("s:$type")
        ->value(\SOAP::Data->value(@accessors));
}

sub person {
    my ($as, $person) = @_;
    return said($as) unless $person;
    return struct($as, 'Person',
        said(name => 'string', $person->{name}),
        said(pay => 'decimal', $person->{pay}),
        said(since => 'dateTime', $person->{since}),
        said(photo => 'base64Binary', $person->{photo}),
        person(manager => $person->{manager}));
}

1;
