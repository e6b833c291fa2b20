@XmlSchema(namespace = "urn:example:orders:v1", elementFormDefault = XmlNsForm.QUALIFIED)
package orders;

import jakarta.xml.bind.annotation.XmlNsForm;
import jakarta.xml.bind.annotation.XmlSchema;
