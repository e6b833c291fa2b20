<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:o="urn:example:shares" xmlns:p="urn:example:purchases" exclude-result-prefixes="o">
  <xsl:template match="@*|node()">
    <xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy>
  </xsl:template>
  <xsl:template match="o:buy">
    <p:purchases><xsl:apply-templates select="order"/></p:purchases>
  </xsl:template>
  <xsl:template match="order">
    <purchase symbol="{symbol}" customer="{buyer}">
      <limit><xsl:value-of select="price"/></limit>
      <shares><xsl:value-of select="volume"/></shares>
    </purchase>
  </xsl:template>
</xsl:stylesheet>
