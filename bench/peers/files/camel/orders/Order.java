package orders;

import com.fasterxml.jackson.annotation.JsonProperty;
import jakarta.xml.bind.annotation.XmlAccessType;
import jakarta.xml.bind.annotation.XmlAccessorType;
import jakarta.xml.bind.annotation.XmlAttribute;
import jakarta.xml.bind.annotation.XmlType;
import java.math.BigDecimal;
import java.util.List;

/** The types of orders.wsdl, for JAXB and for Jackson. */
@XmlAccessorType(XmlAccessType.FIELD)
@XmlType(name = "Order", propOrder = {"number", "placed", "currency", "customer", "line", "total"})
public class Order {
    public String number;
    public String placed;
    public String currency;
    public Customer customer;
    public List<Line> line;
    public BigDecimal total;

    @XmlAccessorType(XmlAccessType.FIELD)
    @XmlType(name = "Customer", propOrder = {"name", "email", "invoiceTo", "deliverTo"})
    public static class Customer {
        @XmlAttribute(required = true)
        @JsonProperty("@number")
        public long number;
        public String name;
        public String email;
        public Address invoiceTo;
        public Address deliverTo;
    }

    @XmlAccessorType(XmlAccessType.FIELD)
    @XmlType(name = "Address", propOrder = {"street", "city", "postalCode", "country"})
    public static class Address {
        public String street;
        public String city;
        public String postalCode;
        public String country;
    }

    @XmlAccessorType(XmlAccessType.FIELD)
    @XmlType(name = "Line",
            propOrder = {"sku", "description", "quantity", "price", "gift", "deliverBy"})
    public static class Line {
        public String sku;
        public String description;
        public int quantity;
        public BigDecimal price;
        public boolean gift;
        public String deliverBy;
    }
}
